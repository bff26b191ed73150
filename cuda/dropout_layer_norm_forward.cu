// One block per row, as in layer_norm_forward. Long rows are read again from h, where each thread wrote its part.
#define ROW C
#undef AT_ONCE
#define AT_ONCE , {{ 1024 // BLOCK }}
#include "lib/philox.cuh"
#include "lib/reduce.cuh"
#include "lib/vec.cuh"
constexpr u32 n = C / VEC, COLUMNS = (n + BLOCK - 1) / BLOCK;  // vectors in a row, and per thread
constexpr bool KEEP = COLUMNS * VEC <= 8 * W;

KERNEL {
    const u32 t = threadIdx.x;
    const size_t base = (size_t)blockIdx.x * n;
    vecf kept[KEEP && n ? COLUMNS : 1] = {};
    auto value = [&](u32 c) {
        vecf v = load(x, base + c);
#pragma unroll
        for (u32 e = 0; e < VEC; e += W) {
            const Words words = random_words(state, p.offset, ((base + c) * VEC + e) / W);
#pragma unroll
            for (u32 w = 0; w < W; w++)
                v.v[e + w] = float(X(words.w[w] < p.threshold ? 0.f : v.v[e + w] * p.scale));
        }
        return R ? v + load(residual, base + c) : v;
    };
    float s = 0.f;
#pragma unroll
    for (u32 k = 0; k < COLUMNS; k++) {
        const u32 c = t + k * BLOCK;
        if (c < n) {
            const vecf v = value(c);
            if (KEEP) kept[k] = v;
            store(h, base + c, v);
            s += vec_sum(v);
        }
    }
    const float m = block_sum(s) / float(C);
    float q = 0.f;
#pragma unroll
    for (u32 k = 0; k < COLUMNS; k++) {
        const u32 c = t + k * BLOCK;
        if (c < n) {
            const vecf d = (KEEP ? kept[k] : load(h, base + c)) - m;
            q += vec_sum(d * d);
        }
    }
    const float r = rsqrtf(block_sum(q) / float(C) + p.eps);
#pragma unroll
    for (u32 k = 0; k < COLUMNS; k++) {
        const u32 c = t + k * BLOCK;
        if (c < n) {
            const vecf v = KEEP ? kept[k] : load(h, base + c);
            vecf y = (v - m) * r;
            if (A) y = y * load(weight, c);
            if (B) y = y + load(bias, c);
            store(out, base + c, y);
        }
    }
    if (t == 0) { stats[blockIdx.x] = m; stats[p.N + blockIdx.x] = r; }
}
