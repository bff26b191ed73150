// A block per row joins its S pieces (Chan, Golub, LeVeque 1979): each adds its own mean's deviation.
#include "lib/reduce.cuh"

__device__ __forceinline__ float piece_length(u32 s, const Params& p) {
    const u32 unit = p.K % 4 ? 1 : 4, n = p.K / unit;
    return float((n / p.S + (s < n % p.S)) * unit);
}

KERNEL {
    const size_t base = size_t(blockIdx.x) * p.S;
    float sum = 0.f;
    for (u32 s = threadIdx.x; s < p.S; s += BLOCK) sum += means[base + s] * piece_length(s, p);
    const float m = block_sum(sum) / float(p.K);
    float q = 0.f;
    for (u32 s = threadIdx.x; s < p.S; s += BLOCK) {
        const float d = means[base + s] - m;
        q += squares[base + s] + d * d * piece_length(s, p);
    }
    float v = block_sum(q) * p.scale;
    if (p.root) v = sqrtf(v);
    if (threadIdx.x == 0) { out[blockIdx.x] = A(v); exact[blockIdx.x] = v; mean[blockIdx.x] = m; }
}
