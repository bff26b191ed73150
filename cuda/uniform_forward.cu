#include "lib/philox.cuh"

KERNEL {
    const u32 c = blockIdx.x * BLOCK + threadIdx.x;
    if ((size_t)c * 4 >= p.N) return;
    const Words r = random_words(state, p.offset, c);
    for (u32 j = 0; j < 4; j++) {
        const size_t i = (size_t)c * 4 + j;
        const float whole = float(int(r.w[j] >> p.shift) - (1 << (31 - p.shift)));
        if (i < p.N) out[i] = F(__fadd_rn(__fmul_rn(whole, p.scale), p.middle));
    }
}
