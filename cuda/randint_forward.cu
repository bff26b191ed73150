#include "lib/philox.cuh"

KERNEL {
    const u32 c = blockIdx.x * BLOCK + threadIdx.x;
    if ((size_t)c * 4 >= p.N) return;
    const Words r = random_words(state, p.offset, c);
    for (u32 j = 0; j < 4; j++) {
        const size_t i = (size_t)c * 4 + j;
        if (i < p.N) out[i] = F(int(__umulhi(r.w[j], p.span)) + p.low);
    }
}
