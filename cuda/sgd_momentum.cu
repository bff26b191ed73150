#include "lib/vec.cuh"

KERNEL {
    const float lr = hyper[0], decay = hyper[1], momentum = hyper[2], rest = hyper[3];
    const bool nesterov = hyper[4] != 0.f;
    if (scale[0] == 0.f) return;
    const u32 n = p.N / W, begin = blockIdx.x * 4 * BLOCK + threadIdx.x;
#pragma unroll
    for (u32 k = 0; k < 4; k++) {
        const u32 i = begin + k * BLOCK;
        if (i >= n) return;
        const vecf x = load(param, i), g = load(grad, i) * scale[0] + x * decay;
        const vecf b = load(buffer, i) * momentum + g * rest;
        store(buffer, i, b);
        store(param, i, x - (nesterov ? g + b * momentum : b) * lr);
    }
}
