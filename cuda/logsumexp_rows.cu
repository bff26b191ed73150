// A block per piece of a row, in one pass: each thread rescales its sum when it meets a larger element.
#include "lib/softmax.cuh"

KERNEL {
    const u32 s = blockIdx.x % p.S, t = threadIdx.x, n = p.K / W, more = n % p.S;
    const u32 begin = s * (n / p.S) + (s < more ? s : more), end = begin + n / p.S + (s < more);
    const size_t base = size_t(blockIdx.x / p.S) * n;
    float top = LOWEST, sum = 0.f;
    for (u32 c = begin + t; c < end; c += BLOCK) meet(load(x, base + c), top, sum);
    const float m = block_max(top);
    float l = m + logf(block_sum(sum * expf(top - m)));
    if (m > -LOWEST) l = m;  // an infinite element
    if (t == 0) { lse[blockIdx.x] = l; out[blockIdx.x] = A(l); }
}
