// A block per piece of a row: the piece's mean, then its squared deviations from it, so that nothing cancels.
#include "lib/reduce.cuh"
#include "lib/vec.cuh"

KERNEL {
    const u32 s = blockIdx.x % p.S, t = threadIdx.x, n = p.K / W, more = n % p.S;
    const u32 begin = s * (n / p.S) + (s < more ? s : more), count = n / p.S + (s < more), end = begin + count;
    const size_t base = size_t(blockIdx.x / p.S) * n;
    vecf sum = vec(0.f);
    for (u32 c = begin + t; c < end; c += BLOCK) sum += load(x, base + c);
    const float m = block_sum(vec_sum(sum)) / float(count * W);
    vecf q = vec(0.f);
    for (u32 c = begin + t; c < end; c += BLOCK) { const vecf d = load(x, base + c) - vec(m); q += d * d; }
    float v = block_sum(vec_sum(q)) * p.scale;
    if (p.root) v = sqrtf(v);
    if (t == 0) { out[blockIdx.x] = A(v); exact[blockIdx.x] = v; mean[blockIdx.x] = m; }
}
