// A block walks over rows g, g + S, ...; each thread keeps its columns' sums for the weight in registers.
#define ROW C
#include "lib/reduce.cuh"
#include "lib/vec.cuh"
constexpr u32 n = C / VEC, COLUMNS = (n + BLOCK - 1) / BLOCK, SLOTS = COLUMNS ? COLUMNS : 1;  // vectors per thread
constexpr bool KEEP = COLUMNS * VEC <= 8 * W;  // whether a row stays in registers too

KERNEL {
    const u32 t = threadIdx.x;
    vecf dw[SLOTS] = {}, kept_e[KEEP ? SLOTS : 1] = {}, kept_x[KEEP ? SLOTS : 1] = {};
    for (u32 row = blockIdx.x; row < p.N; row += p.S) {
        const size_t base = (size_t)row * n;
        const float r = rstd[row];
        float sum = 0.f;
#pragma unroll
        for (u32 k = 0; k < COLUMNS; k++) {
            const u32 c = t + k * BLOCK;
            if (c < n) {
                const vecf d = load(dout, base + c), v = load(x, base + c), scale = A ? load(weight, c) : vec(1.f);
                const vecf dy = d * v * r;
                sum += vec_sum(dy * scale);
                if (P > 0) dw[k] += dy;
                if (KEEP) kept_e[k] = d * scale, kept_x[k] = v;
            }
        }
        const float slope = r * (block_sum(sum) / float(C));
#pragma unroll
        for (u32 k = 0; k < COLUMNS; k++) {
            const u32 c = t + k * BLOCK;
            if (c < n) {
                const vecf e = KEEP ? kept_e[k] : A ? load(dout, base + c) * load(weight, c) : load(dout, base + c);
                const vecf g = (e - (KEEP ? kept_x[k] : load(x, base + c)) * slope) * r;
                const vecf made = R ? g + load(dh, base + c) : g;
                store(dx, base + c, made);
                if (Z) store(short_dx, base + c, made);
            }
        }
    }
#pragma unroll
    for (u32 k = 0; k < COLUMNS; k++) {
        const u32 c = t + k * BLOCK;
        if (P > 0 && c < n) store(partial, (size_t)blockIdx.x * n + c, dw[k]);
    }
}
