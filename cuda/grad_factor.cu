// One thread's work.
#include "lib/math.cuh"

KERNEL {
    if (threadIdx.x != 0) return;
    const float given = float(norm[0]), scale = state[0], n = given / scale;
    total[0] = F(n);
    factor[0] = 0.f;
    if (state[3] != 0.f) return;
    if (!is_finite(given)) {
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
