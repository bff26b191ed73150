// One block per row. Short rows stay in registers.
#define ROW C
#undef AT_ONCE
#define AT_ONCE , {{ 1024 // BLOCK }}
#include "lib/reduce.cuh"
#include "lib/vec.cuh"
constexpr u32 n = C / VEC, COLUMNS = (n + BLOCK - 1) / BLOCK;  // vectors in a row, and per thread
constexpr bool KEEP = COLUMNS * VEC <= 8 * W;

KERNEL {
    const u32 t = threadIdx.x;
    const size_t base = (size_t)blockIdx.x * n;
    vecf kept[KEEP && n ? COLUMNS : 1] = {};
    auto value = [&](u32 c) { return R ? load(x, base + c) + load(residual, base + c) : load(x, base + c); };
    float q = 0.f;
#pragma unroll
    for (u32 k = 0; k < COLUMNS; k++) {
        const u32 c = t + k * BLOCK;
        if (c < n) {
            const vecf v = value(c);
            if (KEEP) kept[k] = v;
            q += vec_sum(v * v);
        }
    }
    const float r = rsqrtf(block_sum(q) / float(C) + p.eps);
#pragma unroll
    for (u32 k = 0; k < COLUMNS; k++) {
        const u32 c = t + k * BLOCK;
        if (c < n) {
            const vecf v = KEEP ? kept[k] : value(c);
            if (R) store(h, base + c, v);
            store(out, base + c, A ? v * r * load(weight, c) : v * r);
        }
    }
    if (t == 0) rstd[blockIdx.x] = r;
}
