// The opposite of strided_copy: the coordinates say where an element is written.
#include "lib/strides.cuh"

KERNEL {
    using G = Group<F, W>;
    for (u32 u = threadIdx.x; u < 256; u += BLOCK) {
        const size_t i = (size_t)blockIdx.x * 256 + u;
        if (i < p.K) ((G*)out)[strided_offset(i, p, p.s5)] = ((const G*)x)[i];
    }
}
