#include "lib/philox.cuh"

KERNEL {
    const u32 c = blockIdx.x * BLOCK + threadIdx.x;
    if ((size_t)c * 4 >= p.N) return;
    const Words r = random_words(state, p.offset, c);
    for (u32 j = 0; j < 4; j++) {
        const size_t i = (size_t)c * 4 + j;
        if (i < p.N) out[i] = F(float(r.w[j] >> 8) * 5.9604645e-8f < float(x[i]) ? 1.f : 0.f);
    }
}
