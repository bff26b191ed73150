// The first blocks own ROWS queries each, with keys streaming past, and make dq; the others own ROWS keys, with the
// queries of their group of heads streaming past, and make dk and dv.
constexpr u32 COLS = D > 32 && D <= 64 ? 64 : 32;
#include "lib/attention.cuh"
{% if varlen is defined %}
#define VARLEN
{% endif %}
#include "lib/attention_varlen.cuh"

#define ARGUMENTS const F* __restrict__ q, const F* __restrict__ k, const F* __restrict__ v, \
    const F* __restrict__ dout, const float* __restrict__ lse, const float* __restrict__ delta, F* __restrict__ grad, \
    PARAMS, Tiles& tiles, u32 g

__device__ __forceinline__ void own_queries(ARGUMENTS) {
    FIND(false);
    const u32 tx = threadIdx.x % 8, ty = threadIdx.x / 8, count = (p.TQ + ROWS - 1) / ROWS;
    const u32 first = (count - 1 - g % count) * ROWS;  // the tiles that see most keys start first
    const u32 b = g / count / p.H, h = g / count % p.H, key_head = h / (p.H / p.KVH);
    const size_t q_row = (size_t)b * p.q_b + (size_t)h * p.q_h, k_row = (size_t)b * p.k_b + (size_t)key_head * p.k_h;
    const size_t o_row = (size_t)b * p.o_b + (size_t)h * p.o_h;
    const Side queries = side(q, q_row, p.q_t, p.TQ), douts = side(dout, o_row, p.o_t, p.TQ);
    const Side keys = side(k, p.k_at + k_row, p.k_t, p.TK), values = side(v, p.v_at + k_row, p.k_t, p.TK);
    float sums[4], deltas[4];
#pragma unroll
    for (u32 i = 0; i < 4; i++) {
        const size_t row = o_row + (size_t)min(first + ty * 4 + i, p.TQ - 1) * p.o_t;
        sums[i] = lse[row];
        deltas[i] = delta[row];
    }
    Sums acc = {};
    const u32 end = min(p.TK, min(p.TQ, first + ROWS) + p.offset);
    for (u32 n = 0; n < end; n += COLS) {
        Scores s, ds;
        scores(s, tiles, queries, first, keys, n);
        scores(ds, tiles, douts, first, values, n);
#pragma unroll
        for (u32 i = 0; i < 4; i++) {
            const u32 seen = min(p.TK, first + ty * 4 + i + p.offset + 1);
#pragma unroll
            for (u32 j = 0; j < COLS / 8; j++)
                ds[i][j] = n + j * 8 + tx < seen ? __expf(s[i][j] * p.scale - sums[i]) * (ds[i][j] - deltas[i]) : 0.f;
        }
        product(acc, tiles, ds, keys, n);
    }
    const float factor[4] = {p.scale, p.scale, p.scale, p.scale};
    store_rows(grad, q_row, p.q_t, first, p.TQ, acc, factor);
}

__device__ __forceinline__ void own_keys(ARGUMENTS) {
    FIND(true);
    const u32 tx = threadIdx.x % 8, ty = threadIdx.x / 8, count = (p.TK + ROWS - 1) / ROWS;
    const u32 first = g % count * ROWS, b = g / count / p.KVH, key_head = g / count % p.KVH;
    const size_t k_row = (size_t)b * p.k_b + (size_t)key_head * p.k_h;
    const Side keys = side(k, p.k_at + k_row, p.k_t, p.TK), values = side(v, p.v_at + k_row, p.k_t, p.TK);
    Sums acc_k = {}, acc_v = {};
    const u32 group = p.H / p.KVH;
    for (u32 h = key_head * group; h < (key_head + 1) * group; h++) {
        const size_t o_row = (size_t)b * p.o_b + (size_t)h * p.o_h;
        const Side queries = side(q, (size_t)b * p.q_b + (size_t)h * p.q_h, p.q_t, p.TQ);
        const Side douts = side(dout, o_row, p.o_t, p.TQ);
        for (u32 n = max(first, p.offset) - p.offset; n < p.TQ; n += COLS) {
            Scores s, ds;
            scores(s, tiles, keys, first, queries, n);
            scores(ds, tiles, values, first, douts, n);
#pragma unroll
            for (u32 j = 0; j < COLS / 8; j++) {
                const u32 query = n + j * 8 + tx;
                const size_t row = o_row + (size_t)min(query, p.TQ - 1) * p.o_t;
                const float sum = lse[row], less = delta[row];
#pragma unroll
                for (u32 i = 0; i < 4; i++) {
                    const bool sees = query < p.TQ && query + p.offset >= first + ty * 4 + i;
                    s[i][j] = sees ? __expf(s[i][j] * p.scale - sum) : 0.f;
                    ds[i][j] = s[i][j] * (ds[i][j] - less);
                }
            }
            product(acc_v, tiles, s, douts, n);
            product(acc_k, tiles, ds, queries, n);
        }
    }
    const float factor[4] = {p.scale, p.scale, p.scale, p.scale}, one[4] = {1.f, 1.f, 1.f, 1.f};
    store_rows(grad, p.gk_at + k_row, p.k_t, first, p.TK, acc_k, factor);
    store_rows(grad, p.gv_at + k_row, p.k_t, first, p.TK, acc_v, one);
}

KERNEL {
    __shared__ Tiles tiles;
    const u32 g = blockIdx.x, query_blocks = QUERY_BLOCKS;
    if (g == 0) {  // the gaps before dk and dv
        const size_t dq_end = (size_t)p.B * p.H * p.TQ * D, dk_end = (p.gk_at + (size_t)p.B * p.KVH * p.TK) * D;
        for (size_t e = dq_end + threadIdx.x; e < (size_t)p.gk_at * D; e += BLOCK) grad[e] = F(0.f);
        for (size_t e = dk_end + threadIdx.x; e < (size_t)p.gv_at * D; e += BLOCK) grad[e] = F(0.f);
    }
    if (g < query_blocks) own_queries(q, k, v, dout, lse, delta, grad, PASSED, tiles, g);
    else own_keys(q, k, v, dout, lse, delta, grad, PASSED, tiles, g - query_blocks);
}
