// Single elements from anywhere; W neighbours of out share one split into coordinates and one store.
#include "lib/strides.cuh"

KERNEL {
    using G = Group<F, W>;
    const size_t total = p.n0 * (INNER / W);
    for (u32 u = threadIdx.x; u < 256; u += BLOCK) {
        const size_t i = (size_t)blockIdx.x * 256 + u;
        if (i >= total) return;
        const size_t at = strided_offset(i * W, p, s5);
        G found;
        for (u32 j = 0; j < W; j++) found.v[j] = x[at + (long long)j * s5];
        ((G*)out)[i] = found;
    }
}
