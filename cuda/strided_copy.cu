// A block moves 256 elements (or groups of four), whatever its size.
#include "lib/strides.cuh"

KERNEL {
    using G = Group<F, W>;
    const size_t total = p.n0 * INNER;
    for (u32 u = threadIdx.x; u < 256; u += BLOCK) {
        const size_t i = (size_t)blockIdx.x * 256 + u;
        if (i < total) ((G*)out)[i] = ((const G*)x)[strided_offset(i, p, p.s5)];
    }
}
