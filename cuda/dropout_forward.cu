#include "lib/philox.cuh"

KERNEL {
    const u32 c = blockIdx.x * BLOCK + threadIdx.x;
    if ((size_t)c * 4 >= p.N) return;
    const Words r = random_words(state, p.offset, c);
    for (u32 j = 0; j < 4; j++) {
        const size_t i = (size_t)c * 4 + j;
        if (i < p.N) out[i] = F(r.w[j] < p.threshold ? 0.f : float(x[i]) * p.scale);
    }
}
