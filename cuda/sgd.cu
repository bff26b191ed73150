#include "lib/vec.cuh"

KERNEL {
    if (scale[0] == 0.f) return;
    const u32 n = p.N / W, begin = blockIdx.x * 4 * BLOCK + threadIdx.x;
#pragma unroll
    for (u32 k = 0; k < 4; k++) {
        const u32 i = begin + k * BLOCK;
        if (i >= n) return;
        const vecf x = load(param, i), g = load(grad, i) * scale[0] + x * hyper[1];
        store(param, i, x - g * hyper[0]);
    }
}
