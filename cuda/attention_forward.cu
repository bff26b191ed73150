// A block owns ROWS queries of a head; tiles of COLS keys and values stream past under an online softmax.
constexpr u32 COLS = D > 64 ? 32 : 64;
#include "lib/attention.cuh"
{% if varlen is defined %}
#define VARLEN
{% endif %}
#include "lib/attention_varlen.cuh"

#define ARGUMENTS const F* __restrict__ q, const F* __restrict__ k, const F* __restrict__ v, F* __restrict__ out, \
    float* __restrict__ lse, PARAMS, Tiles& tiles, u32 g

__device__ __forceinline__ void own_queries(ARGUMENTS) {
    FIND(false);
    const u32 tx = threadIdx.x % 8, ty = threadIdx.x / 8;
    const u32 count = (p.TQ + ROWS - 1) / ROWS;
    const u32 first = (count - 1 - g % count) * ROWS;  // the tiles that see most keys start first
    const u32 b = g / count / p.H, h = g / count % p.H, key_head = h / (p.H / p.KVH);
    const size_t k_row = (size_t)b * p.k_b + (size_t)key_head * p.k_h, o_row = (size_t)b * p.o_b + (size_t)h * p.o_h;
    const Side queries = side(q, (size_t)b * p.q_b + (size_t)h * p.q_h, p.q_t, p.TQ);
    const Side keys = side(k, p.k_at + k_row, p.k_t, p.TK), values = side(v, p.v_at + k_row, p.k_t, p.TK);
    float top[4], total[4] = {};
    Sums acc = {};
#pragma unroll
    for (u32 i = 0; i < 4; i++) top[i] = -3e38f;  // below every score
    const u32 end = min(p.TK, min(p.TQ, first + ROWS) + p.offset);
    for (u32 n = 0; n < end; n += COLS) {
        Scores s;
        scores(s, tiles, queries, first, keys, n);
#pragma unroll
        for (u32 i = 0; i < 4; i++) {
            const u32 seen = min(p.TK, first + ty * 4 + i + p.offset + 1);
            float big = top[i], sum = 0.f;
#pragma unroll
            for (u32 j = 0; j < COLS / 8; j++) {
                s[i][j] = n + j * 8 + tx < seen ? s[i][j] * p.scale : -3e38f;
                big = fmaxf(big, s[i][j]);
            }
#pragma unroll
            for (int w = 4; w; w >>= 1) big = fmaxf(big, __shfl_xor_sync(ALL_LANES, big, w));
#pragma unroll
            for (u32 j = 0; j < COLS / 8; j++) sum += s[i][j] = __expf(s[i][j] - big);
            const float keep = __expf(top[i] - big);
            top[i] = big;
            total[i] = total[i] * keep + sum;
#pragma unroll
            for (u32 part = 0; part < PARTS; part++)
#pragma unroll
                for (u32 quad = 0; quad < QUADS; quad++)
#pragma unroll
                    for (u32 c = 0; c < 4; c++) acc[i][part][quad][c] *= keep;
        }
        product(acc, tiles, s, values, n);
    }
    float share[4];
#pragma unroll
    for (u32 i = 0; i < 4; i++) {
#pragma unroll
        for (int w = 4; w; w >>= 1) total[i] += __shfl_xor_sync(ALL_LANES, total[i], w);
        share[i] = p.TK ? 1.f / total[i] : 0.f;
        const u32 r = first + ty * 4 + i;
        if (tx == 0 && r < p.TQ) lse[o_row + (size_t)r * p.o_t] = p.TK ? top[i] + logf(total[i]) : 0.f;
    }
    store_rows(out, o_row, p.o_t, first, p.TQ, acc, share);
}

KERNEL {
    __shared__ Tiles tiles;
    own_queries(q, k, v, out, lse, PASSED, tiles, blockIdx.x);
}
