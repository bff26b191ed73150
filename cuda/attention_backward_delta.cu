// As many threads of a warp as a row has vectors, at most all, share a row; a block has BLOCK rows.
#define ROW D
#include "lib/vec.cuh"
constexpr u32 n = D / VEC, TEAM = n > 16 ? 32 : n > 8 ? 16 : n > 4 ? 8 : n > 2 ? 4 : n > 1 ? 2 : 1;

KERNEL {
    const u32 lane = threadIdx.x % TEAM;
    for (u32 k = threadIdx.x / TEAM; k < BLOCK; k += BLOCK / TEAM) {
        const u32 row = blockIdx.x * BLOCK + k;
        const size_t base = (size_t)row * n;
        float sum = 0.f;
        if (row < p.N)
            for (u32 c = lane; c < n; c += TEAM) sum += vec_sum(load(out, base + c) * load(dout, base + c));
#pragma unroll
        for (u32 d = TEAM / 2; d; d >>= 1) sum += __shfl_xor_sync(ALL_LANES, sum, d);
        if (lane == 0 && row < p.N) delta[row] = sum;
    }
}
