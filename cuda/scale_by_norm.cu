#include "lib/vec.cuh"

KERNEL {
    const float factor = p.max_norm / (norm[0] + 1e-6f);
    if (factor >= 1.f) return;
    const u32 begin = blockIdx.x * 4 * BLOCK + threadIdx.x;
#pragma unroll
    for (u32 k = 0; k < 4; k++) {
        const u32 i = begin + k * BLOCK;
        if (i < p.N / W) store(x, i, load(x, i) * factor);
    }
}
