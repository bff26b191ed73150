#include "lib/vec.cuh"

KERNEL {
    constexpr u32 n = D / W;
    const size_t i = (size_t)blockIdx.x * BLOCK + threadIdx.x;  // a vector of one query
    if (i >= (size_t)(p.R / p.P) * n) return;
    const size_t first = i / n * p.P;
    float top = lse[first];
    for (u32 j = 1; j < p.P; j++) top = fmaxf(top, lse[first + j]);
    float total = 0.f;
    vecf sum = vec(0.f);
    for (u32 j = 0; j < p.P; j++) {
        const float share = expf(lse[first + j] - top);
        total += share;
        sum += load(part, (first + j) * n + i % n) * share;
    }
    store(out, i, sum * (1.f / total));
}
