// One block per row; the variance in a second pass, so that it does not cancel. Short rows stay in registers.
#define ROW C
#include "lib/reduce.cuh"
#include "lib/vec.cuh"
constexpr u32 n = C / VEC, COLUMNS = (n + BLOCK - 1) / BLOCK;  // vectors in a row, and per thread
constexpr bool KEEP = COLUMNS * VEC <= 8 * W;

KERNEL {
    const u32 t = threadIdx.x;
    const size_t base = (size_t)blockIdx.x * n;
    vecf kept[KEEP && n ? COLUMNS : 1] = {};
    auto value = [&](u32 c) { return R ? load(x, base + c) + load(residual, base + c) : load(x, base + c); };
    float s = 0.f;
#pragma unroll
    for (u32 k = 0; k < COLUMNS; k++) {
        const u32 c = t + k * BLOCK;
        if (c < n) {
            const vecf v = value(c);
            if (KEEP) kept[k] = v;
            s += vec_sum(v);
        }
    }
    const float m = block_sum(s) / float(C);
    float q = 0.f;
#pragma unroll
    for (u32 k = 0; k < COLUMNS; k++) {
        const u32 c = t + k * BLOCK;
        if (c < n) {
            const vecf d = (KEEP ? kept[k] : value(c)) - m;
            q += vec_sum(d * d);
        }
    }
    const float r = rsqrtf(block_sum(q) / float(C) + p.eps);
#pragma unroll
    for (u32 k = 0; k < COLUMNS; k++) {
        const u32 c = t + k * BLOCK;
        if (c < n) {
            const vecf v = KEEP ? kept[k] : value(c);
            if (R) store(h, base + c, v);
            vecf y = (v - m) * r;
            if (A) y = y * load(weight, c);
            if (B) y = y + load(bias, c);
            store(out, base + c, y);
        }
    }
    if (t == 0) { mean[blockIdx.x] = m; rstd[blockIdx.x] = r; }
}
