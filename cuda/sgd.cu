#include "lib/vec.cuh"

KERNEL {
    const float lr = hyper[0], momentum = hyper[1], dampening = hyper[2], decay = hyper[3], scale = hyper[5];
    const bool nesterov = hyper[4] != 0.f;
    if (scale == 0.f) return;
    const u32 n = p.N / W, begin = blockIdx.x * 4 * BLOCK + threadIdx.x;
#pragma unroll
    for (u32 k = 0; k < 4; k++) {
        const u32 i = begin + k * BLOCK;
        if (i >= n) return;
        const vecf x = load(param, i), g = load(grad, i) * scale + x * decay;
        const vecf b = load(buffer, i) * momentum + g * (1.f - dampening);
        store(buffer, i, b);
        store(param, i, x - (nesterov ? g + b * momentum : b) * lr);
    }
}
