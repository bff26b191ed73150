// A block per piece of a row, in one pass: each thread rescales its sum when it meets a larger element. What is
// subtracted stays finite, so that an infinite element makes the sum infinite, and NaN only a NaN.
#include "lib/softmax.cuh"

__device__ __forceinline__ void meet_finite(vecf v, float& top, float& sum) {
    const float higher = fminf(fmaxf(top, vec_max(v)), -LOWEST);
    sum *= expf(top - higher);
#pragma unroll
    for (u32 w = 0; w < W; w++) sum += expf(v.v[w] - higher);
    top = higher;
}

KERNEL {
    const u32 s = blockIdx.x % p.S, t = threadIdx.x, n = p.K / W, more = n % p.S;
    const u32 begin = s * (n / p.S) + (s < more ? s : more), end = begin + n / p.S + (s < more);
    const size_t base = size_t(blockIdx.x / p.S) * n;
    float top = LOWEST, sum = 0.f;
    for (u32 c = begin + t; c < end; c += BLOCK) meet_finite(load(x, base + c), top, sum);
    const float m = block_max(top);
    const float l = m + logf(block_sum(sum * expf(top - m)));
    if (t == 0) { lse[blockIdx.x] = l; out[blockIdx.x] = A(l); }
}
