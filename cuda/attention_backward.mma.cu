// On tensor cores. The first blocks own ROWS queries each, with keys streaming past, and make dq; the others own ROWS
// keys, with the queries of their group of heads streaming past, and make dk and dv. Both make s = a xᵀ, ds = a' yᵀ and
// then sums of ds x (and of s y), where owned a, a' are q, dout or k, v, and streamed x, y are k, v or q, dout.
#include "lib/attention_mma.cuh"
{% if varlen is defined %}
#define VARLEN
{% endif %}
#include "lib/attention_varlen.cuh"
DYNAMIC_SHARED({{ 2 * D * (2 * ROWS + 4 * COLS) + 16 * COLS }})

#define ARGUMENTS const F* __restrict__ q, const F* __restrict__ k, const F* __restrict__ v, \
    const F* __restrict__ dout, const float* __restrict__ lse, const float* __restrict__ delta, F* __restrict__ grad, \
    PARAMS, u32 g

template <bool KEYS> __device__ __forceinline__ void own(ARGUMENTS) {
    FIND(KEYS);
    F *const tile = (F*)dynamic_shared, *const stages = tile + 2 * ROWS * D;
    float* const stats = (float*)(stages + 4 * COLS * D);  // lse and delta of streamed queries, two stages
    const u32 lane = threadIdx.x % 32, mine = threadIdx.x / 32 * OWNED, group = p.H / p.KVH;
    const u32 limit = KEYS ? p.TK : p.TQ, heads = KEYS ? p.KVH : p.H, count = (limit + ROWS - 1) / ROWS;
    const u32 first = (KEYS ? g % count : count - 1 - g % count) * ROWS;  // the tiles with most to do start first
    const u32 b = g / count / heads, head = g / count % heads, key_head = KEYS ? head : head / group;
    const size_t k_row = (size_t)b * p.k_b + (size_t)key_head * p.k_h;
    const Side keys = side(k, p.k_at + k_row, p.k_t, p.TK), values = side(v, p.v_at + k_row, p.k_t, p.TK);
    const auto q_row = [&](u32 h) { return (size_t)b * p.q_b + (size_t)h * p.q_h; };
    const auto o_row = [&](u32 h) { return (size_t)b * p.o_b + (size_t)h * p.o_h; };

    // The queries from the first that sees an owned key, of each head of the group; the keys that owned queries see.
    const u32 begin = KEYS ? max(first, p.offset) - p.offset : 0;
    const u32 end = KEYS ? p.TQ : min(p.TK, min(p.TQ, first + ROWS) + p.offset);
    const u32 tiles = begin < end ? (end - begin + COLS - 1) / COLS : 0, steps = KEYS ? tiles * group : tiles;
    u32 n = begin, h = KEYS ? head * group : head;  // of the tile to send next
    const auto send = [&](u32 step) {
        static_assert(COLS <= BLOCK, "a thread copies the statistics of one query");
        F* const x = stages + step % 2 * 2 * COLS * D;
        fetch<COLS>(x, KEYS ? side(q, q_row(h), p.q_t, p.TQ) : keys, n);
        fetch<COLS>(x + COLS * D, KEYS ? side(dout, o_row(h), p.o_t, p.TQ) : values, n);
        if (const u32 c = threadIdx.x; KEYS && c < COLS) {
            const size_t row = o_row(h) + (size_t)(n + c) * p.o_t;
            float* const to = stats + step % 2 * 2 * COLS + c;
            copy_async<4>(to, lse + row, n + c < p.TQ);
            copy_async<4>(to + COLS, delta + row, n + c < p.TQ);
        }
        copy_commit();
        if ((n += COLS) >= end) n = begin, h++;
    };
    fetch<ROWS>(tile, KEYS ? keys : side(q, q_row(head), p.q_t, p.TQ), first);
    fetch<ROWS>(tile + ROWS * D, KEYS ? values : side(dout, o_row(head), p.o_t, p.TQ), first);
    copy_commit();
    u32 here = n;  // of the tile to work on next
    if (steps) send(0);

    const float scale2 = p.scale * LOG2_E;
    float sums[TILES][2], deltas[TILES][2], factor[TILES][2], one[TILES][2];
#pragma unroll
    for (u32 t = 0; t < TILES; t++)
#pragma unroll
        for (u32 h = 0; h < 2; h++) {
            const size_t row = o_row(head) + (size_t)min(first + mine + t * 16 + h * 8 + lane / 4, limit - 1) * p.o_t;
            sums[t][h] = KEYS ? 0.f : lse[row] * LOG2_E;
            deltas[t][h] = KEYS ? 0.f : delta[row];
            factor[t][h] = p.scale, one[t][h] = 1.f;
        }
    Sums acc, acc_v;
    clear(acc);
    clear(acc_v);
    const Lane down = lane_part(true);
#pragma unroll 1
    for (u32 step = 0; step < steps; step++) {
        copy_wait<0>();
        __syncthreads();  // this tile is here, and nobody reads the one before it any more
        const u32 low = first + mine, from = here;  // a pair is seen where key <= query + offset
        here = n;
        if (step + 1 < steps) send(step + 1);
        if (KEYS ? from + COLS - 1 + p.offset < low : from >= low + OWNED + p.offset) continue;
        const F* const x = stages + step % 2 * 2 * COLS * D;
        const float* const stat = stats + step % 2 * 2 * COLS + lane % 4 * 2;
        Scores s, ds;
        clear(s);
        clear(ds);
#pragma unroll
        for (u32 d = 0; d < D / 16; d++) {
            u32 a[TILES][4], a2[TILES][4];
#pragma unroll
            for (u32 t = 0; t < TILES; t++) {
                fragment(a[t], tile, down, mine + t * 16, d * 2);
                fragment(a2[t], tile + ROWS * D, down, mine + t * 16, d * 2);
            }
            scores_step(s, a, x, d * 2);
            scores_step(ds, a2, x + COLS * D, d * 2);
        }
        each_score([&](u32 t, u32 j, u32 i) {
            const float sum = KEYS ? stat[j * 8 + i % 2] * LOG2_E : sums[t][i / 2];
            s[t][j][i] = exp2_approx(s[t][j][i] * scale2 - sum);
        });
        // Streamed queries beyond the last are zero, and so is what they add; streamed keys beyond the last are hidden.
        if (KEYS ? from + p.offset < low + OWNED - 1 : from + COLS > min(p.TK, low + p.offset + 1))
            each_score([&](u32 t, u32 j, u32 i) {
                const u32 row = low + t * 16 + i / 2 * 8 + lane / 4, col = from + j * 8 + lane % 4 * 2 + i % 2;
                if (KEYS ? col + p.offset < row : col >= min(p.TK, row + p.offset + 1)) s[t][j][i] = 0.f;
            });
        each_score([&](u32 t, u32 j, u32 i) {
            ds[t][j][i] = s[t][j][i] * (ds[t][j][i] - (KEYS ? stat[COLS + j * 8 + i % 2] : deltas[t][i / 2]));
        });
        product(acc, ds, x);
        if (KEYS) product(acc_v, s, x + COLS * D);
    }
    if (!steps) {  // the owned tile, which is written over, may be on its way
        copy_wait<0>();
        __syncthreads();
    }
    const size_t row = KEYS ? p.gk_at + k_row : q_row(head);
    store_rows(grad, row, KEYS ? p.k_t : p.q_t, first, limit, tile, acc, factor);
    if (KEYS) store_rows(grad, p.gv_at + k_row, p.k_t, first, limit, tile + ROWS * D, acc_v, one);
}

KERNEL {
    const u32 g = blockIdx.x, query_blocks = QUERY_BLOCKS;
    if (g == 0) {  // the gaps before dk and dv
        const size_t dq_end = (size_t)p.B * p.H * p.TQ * D, dk_end = (p.gk_at + (size_t)p.B * p.KVH * p.TK) * D;
        for (size_t e = dq_end + threadIdx.x; e < (size_t)p.gk_at * D; e += BLOCK) grad[e] = F(0.f);
        for (size_t e = dk_end + threadIdx.x; e < (size_t)p.gv_at * D; e += BLOCK) grad[e] = F(0.f);
    }
    if (g < query_blocks) own<false>(q, k, v, dout, lse, delta, grad, PASSED, g);
    else own<true>(q, k, v, dout, lse, delta, grad, PASSED, g - query_blocks);
}
