// One warp per row of D elements.
#include "lib/reduce.cuh"

KERNEL {
    for (u32 n = threadIdx.x / 32; n < BLOCK; n += BLOCK / 32) {  // a block has BLOCK rows
        const u32 row = blockIdx.x * BLOCK + n;
        float sum = 0.f;
        if (row < p.N)
            for (u32 d = threadIdx.x % 32; d < D; d += 32)
                sum += float(out[(size_t)row * D + d]) * float(dout[(size_t)row * D + d]);
        sum = warp_sum(sum);
        if (threadIdx.x % 32 == 0 && row < p.N) delta[row] = sum;
    }
}
