#include "lib/philox.cuh"
#include "lib/normal.cuh"

KERNEL {
    const u32 c = blockIdx.x * BLOCK + threadIdx.x;
    if ((size_t)c * 4 >= p.N) return;
    const Words r = random_words(state, p.offset, c);
    float z[4];
    normal_pair(r.w[0], r.w[1], z);
    normal_pair(r.w[2], r.w[3], z + 2);
    for (u32 j = 0; j < 4; j++) {
        const size_t i = (size_t)c * 4 + j;
        if (i < p.N) out[i] = F(z[j] * p.spread + p.mean);
    }
}
