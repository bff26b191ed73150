// One block adds up the squares, where they are given, as grad_norm_total does; one thread does the rest.
#include "lib/math.cuh"
#include "lib/reduce.cuh"
#include "lib/vec.cuh"

__device__ __forceinline__ float norm_of(const F* given, u32 n) {
    if (!squares) return float(given[0]);
    vecf all = vec(0.f);
    for (u32 i = threadIdx.x; i < n; i += BLOCK) all += load(given, i);
    return sqrtf(block_sum(vec_sum(all)));
}

KERNEL {
    const float norm = norm_of(given, p.M / W);
    if (threadIdx.x != 0) return;
    const float scale = state[0], n = norm / scale;
    total[0] = F(n);
    factor[0] = 0.f;
    if (state[3] != 0.f) return;
    if (!is_finite(norm)) {
        state[3] = scale <= p.floor ? 1.f : 0.f;
        state[0] = fmaxf(0.5f * scale, p.floor);
        state[1] = 0.f;
        state[2] += 1.f;
        return;
    }
    factor[0] = (p.max_norm > 0.f ? fminf(1.f, p.max_norm / (n + 1e-6f)) : 1.f) / scale;
    state[1] += 1.f;
    if (p.growth > 0.f && state[1] >= p.growth) {
        state[0] = fminf(2.f * scale, 16777216.f);
        state[1] = 0.f;
    }
}
