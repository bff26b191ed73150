// On tensor cores. A block owns ROWS queries of a head, a warp OWNED of them; tiles of COLS keys and values stream past
// under an online softmax, the next on its way while one is worked on.
#include "lib/attention_mma.cuh"
{% if varlen is defined %}
#define VARLEN
{% if D == 32 %}
// ptxas would spill so that a third block fits.
#undef AT_ONCE
#define AT_ONCE , 2
{% endif %}
{% endif %}
#include "lib/attention_varlen.cuh"
DYNAMIC_SHARED({{ 2 * D * (ROWS + 4 * COLS) }})

#define ARGUMENTS const F* __restrict__ q, const F* __restrict__ k, const F* __restrict__ v, F* __restrict__ out, \
    float* __restrict__ lse, PARAMS, u32 g

__device__ __forceinline__ void own_queries(ARGUMENTS) {
    FIND(false);
    F* const tile = (F*)dynamic_shared;
    F* const stages = tile + ROWS * D;  // two, of keys and values each
    const u32 lane = threadIdx.x % 32, own = threadIdx.x / 32 * OWNED;
    const u32 count = (p.TQ + ROWS - 1) / ROWS;
    const u32 first = (count - 1 - g % count) * ROWS;  // the tiles that see most keys start first
    const u32 b = g / count / p.H, h = g / count % p.H, key_head = h / (p.H / p.KVH);
    const size_t k_row = (size_t)b * p.k_b + (size_t)key_head * p.k_h, o_row = (size_t)b * p.o_b + (size_t)h * p.o_h;
    const Side queries = side(q, (size_t)b * p.q_b + (size_t)h * p.q_h, p.q_t, p.TQ);
    const Side keys = side(k, p.k_at + k_row, p.k_t, p.TK), values = side(v, p.v_at + k_row, p.k_t, p.TK);
    const u32 end = min(p.TK, min(p.TQ, first + ROWS) + p.offset);
    // How many keys some row of the warp sees, and how many all do.
    const u32 some = first + own < p.TQ ? min(p.TK, first + own + OWNED + p.offset) : 0;
    const u32 all = min(p.TK, first + own + p.offset + 1);

    fetch<ROWS>(tile, queries, first);
    copy_commit();
    if (end) {
        fetch<COLS>(stages, keys, 0);
        fetch<COLS>(stages + COLS * D, values, 0);
    }
    copy_commit();
    copy_wait<1>();
    __syncthreads();
    if (p.scale <= 0.f) {  // the largest score is sought before it is scaled: the sign goes into the queries, and 0 too
        u32* const pairs = (u32*)(tile + own * D);
        for (u32 e = lane; e < OWNED * D / 2; e += 32) pairs[e] = p.scale < 0.f ? pairs[e] ^ 0x80008000u : 0;
        __syncwarp();
    }
    const float scale = p.scale == 0.f ? 1.f : fabsf(p.scale), scale2 = scale * LOG2_E;
    constexpr bool HELD = TILES * D <= 128;  // the queries, in registers
    u32 a[HELD ? D / 16 : 1][TILES][4];
    const Lane down = lane_part(true);
    const auto load = [&](u32(&to)[TILES][4], u32 d) {
#pragma unroll
        for (u32 t = 0; t < TILES; t++) fragment(to[t], tile, down, own + t * 16, d * 2);
    };
    if constexpr (HELD)
#pragma unroll
        for (u32 d = 0; d < D / 16; d++) load(a[d], d);

    float top[TILES][2], total[TILES][2];
    Sums acc;
    clear(acc);
#pragma unroll
    for (u32 i = 0; i < 2 * TILES; i++) top[i / 2][i % 2] = -INFINITY, total[i / 2][i % 2] = 0.f;

    u32 stage = 0;
#pragma unroll 1
    for (u32 n = 0; n < end; n += COLS, stage ^= 1) {
        F* const here = stages + stage * 2 * COLS * D;
        copy_wait<0>();
        __syncthreads();  // this tile is here, and nobody reads the one before it any more
        if (n + COLS < end) {
            F* const next = stages + (stage ^ 1) * 2 * COLS * D;
            fetch<COLS>(next, keys, n + COLS);
            fetch<COLS>(next + COLS * D, values, n + COLS);
            copy_commit();
        }
        if (n >= some) continue;
        Scores s;
        clear(s);
#pragma unroll
        for (u32 d = 0; d < D / 16; d++) {
            if constexpr (!HELD) load(a[0], d);
            scores_step(s, a[HELD ? d : 0], here, d * 2);
        }
        if (n + COLS > all)
#pragma unroll
            for (u32 t = 0; t < TILES; t++)
#pragma unroll
                for (u32 j = 0; j < COLS / 8; j++)
#pragma unroll
                    for (u32 i = 0; i < 4; i++) {
                        const u32 row = first + own + t * 16 + i / 2 * 8 + lane / 4;
                        if (n + j * 8 + lane % 4 * 2 + i % 2 >= min(p.TK, row + p.offset + 1)) s[t][j][i] = -INFINITY;
                    }
        float keep[TILES][2];
        bool grew = false;
#pragma unroll
        for (u32 t = 0; t < TILES; t++)
#pragma unroll
            for (u32 h = 0; h < 2; h++) {
                float big = top[t][h], sum = 0.f;
#pragma unroll
                for (u32 j = 0; j < COLS / 8; j++) big = fmaxf(big, fmaxf(s[t][j][2 * h], s[t][j][2 * h + 1]));
                big = fmaxf(big, __shfl_xor_sync(ALL_LANES, big, 1));
                big = fmaxf(big, __shfl_xor_sync(ALL_LANES, big, 2));  // key 0 is seen by all: not -INFINITY
                const float less = big * scale2;
                keep[t][h] = exp2_approx((top[t][h] - big) * scale2);
                grew |= keep[t][h] != 1.f;
                top[t][h] = big;
#pragma unroll
                for (u32 j = 0; j < COLS / 8; j++)
#pragma unroll
                    for (u32 i = 2 * h; i < 2 * h + 2; i++)
                        sum += s[t][j][i] = exp2_approx(s[t][j][i] * scale2 - less);
                total[t][h] = total[t][h] * keep[t][h] + sum;
            }
        if (__any_sync(ALL_LANES, grew))  // soon it seldom does, and the sums need no scaling
#pragma unroll
            for (u32 t = 0; t < TILES; t++)
#pragma unroll
                for (u32 c = 0; c < CHUNKS; c++)
#pragma unroll
                    for (u32 i = 0; i < 4; i++) acc[t][c][i] *= keep[t][i / 2];
        product(acc, s, here + COLS * D);
    }

    float share[TILES][2];
#pragma unroll
    for (u32 t = 0; t < TILES; t++)
#pragma unroll
        for (u32 h = 0; h < 2; h++) {
            float sum = total[t][h];
            sum += __shfl_xor_sync(ALL_LANES, sum, 1);
            sum += __shfl_xor_sync(ALL_LANES, sum, 2);
            share[t][h] = p.TK ? 1.f / sum : 0.f;
            const u32 row = first + own + t * 16 + h * 8 + lane / 4;
            if (lane % 4 == 0 && row < p.TQ)
                lse[o_row + (size_t)row * p.o_t] = p.TK ? top[t][h] * scale + logf(sum) : 0.f;
        }
    store_rows(out, o_row, p.o_t, first, p.TQ, tile, acc, share);
}

KERNEL {
    own_queries(q, k, v, out, lse, PASSED, blockIdx.x);
}
