// layer_norm_backward, and the dropout of what it makes. dh lies in dx's place. Without DROP it is
// dx in another dtype.
#define ROW C
#include "lib/philox.cuh"
#include "lib/reduce.cuh"
#include "lib/vec.cuh"
constexpr u32 n = C / VEC, COLUMNS = (n + BLOCK - 1) / BLOCK, SLOTS = COLUMNS ? COLUMNS : 1;  // vectors per thread
constexpr bool KEEP = COLUMNS * VEC <= 8 * W;  // whether a row stays in registers too

KERNEL {
    const u32 t = threadIdx.x;
    vecf dw[SLOTS] = {}, db[SLOTS] = {}, kept_e[KEEP ? SLOTS : 1] = {}, kept_y[KEEP ? SLOTS : 1] = {};
    for (u32 row = blockIdx.x; row < p.N; row += p.S) {
        const size_t base = (size_t)row * n;
        const float m = stats[row], r = stats[p.N + row];
        float2 sums = make_float2(0.f, 0.f);
#pragma unroll
        for (u32 k = 0; k < COLUMNS; k++) {
            const u32 c = t + k * BLOCK;
            if (c < n) {
                const vecf d = load(dout, base + c), y = (load(x, base + c) - m) * r;
                const vecf e = A ? d * load(weight, c) : d;
                sums.x += vec_sum(e);
                sums.y += vec_sum(e * y);
                if (P > 0) dw[k] += d * y;
                if (P > 1) db[k] += d;
                if (KEEP) kept_e[k] = e, kept_y[k] = y;
            }
        }
        sums = block_sum(sums);
        const float e_mean = sums.x / float(C), slope = sums.y / float(C);
#pragma unroll
        for (u32 k = 0; k < COLUMNS; k++) {
            const u32 c = t + k * BLOCK;
            if (c < n) {
                const vecf e = KEEP ? kept_e[k] : A ? load(dout, base + c) * load(weight, c) : load(dout, base + c);
                const vecf y = KEEP ? kept_y[k] : (load(x, base + c) - m) * r;
                const vecf g = (e - e_mean - y * slope) * r;
                const vecf made = R ? g + load(dx, base + c) : g;
                store(dx, base + c, made);
                vecf other = made;
#pragma unroll
                for (u32 i = 0; DROP && i < VEC; i += W) {
                    const Words words = random_words(state, p.offset, ((base + c) * VEC + i) / W);
#pragma unroll
                    for (u32 w = 0; w < W; w++)
                        other.v[i + w] = words.w[w] < p.threshold ? 0.f : float(Y(F(made.v[i + w]))) * p.scale;
                }
                store(dropped, base + c, other);
            }
        }
    }
#pragma unroll
    for (u32 k = 0; k < COLUMNS; k++) {
        const u32 c = t + k * BLOCK;
        if (P > 0 && c < n) store(partial, (size_t)blockIdx.x * P * n + c, dw[k]);
        if (P > 1 && c < n) store(partial, ((size_t)blockIdx.x * P + 1) * n + c, db[k]);
    }
}
