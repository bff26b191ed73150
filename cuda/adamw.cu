// Alone, or (clip_adamw) with scale_by_norm of the gradient before it, which is written back.
{% set clips = spec.kernel.name == "clip_adamw" %}
#include "lib/vec.cuh"

KERNEL {
    const float lr = hyper[0], beta1 = hyper[1], rest1 = hyper[2], beta2 = hyper[3], rest2 = hyper[4];
    const float eps = hyper[5], decay = hyper[6], step = lr * hyper[7], root = sqrtf(hyper[8]);
    const bool skips = scale[0] == 0.f;
{% if clips %}
    const float factor = p.max_norm / (norm[0] + 1e-6f);
    const bool keeps = factor >= 1.f;  // not where the norm is NaN
    if (skips && keeps) return;
{% else %}
    if (skips) return;
{% endif %}
    const u32 n = p.N / W, begin = blockIdx.x * 4 * BLOCK + threadIdx.x;
#pragma unroll
    for (u32 k = 0; k < 4; k++) {
        const u32 i = begin + k * BLOCK;
        if (i >= n) return;
        vecf x = load(param, i), g = load(grad, i);
{% if clips %}
        if (!keeps) g = g * factor, store(grad, i, g);
        if (skips) continue;
{% endif %}
        g = g * scale[0];
        if (decoupled) x = x * (1.f - lr * decay);
        else g += x * decay;
        const vecf mean = load(m, i) * beta1 + g * rest1;
        const vecf square = load(v, i) * beta2 + g * g * rest2;
        store(m, i, mean);
        store(v, i, square);
#pragma unroll
        for (u32 e = 0; e < W; e++) x.v[e] -= step * mean.v[e] / (sqrtf(square.v[e]) * root + eps);
        store(param, i, x);
    }
}
