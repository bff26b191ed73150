// A block per row, in two passes: the largest element with the sum of exponentials, then the quotients.
#include "lib/softmax.cuh"

KERNEL {
    const u32 t = threadIdx.x, n = p.C / W;
    const size_t base = size_t(blockIdx.x) * n;
    float top = LOWEST, sum = 0.f;
    for (u32 c = t; c < n; c += BLOCK) meet(load(x, base + c), top, sum);
    const float m = block_max(top), r = 1.f / block_sum(sum * expf(top - m));
    for (u32 c = t; c < n; c += BLOCK)
        store(y, base + c, vec_map(load(x, base + c), [=](float v) { return expf(v - m) * r; }));
}
