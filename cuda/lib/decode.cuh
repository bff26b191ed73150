// Attention of one query to a part of a cache. `key(row, c)` and `value(row, c)` give four elements of a row.
// First each thread scores a key, then each has a column of the sum over values, which GROUPS threads share.
#pragma once
#include "lib/reduce.cuh"
#include "lib/vec.cuh"

constexpr float LOW = -3.0e38f;  // below every score

template <typename E, typename Params, typename Key, typename Value>
__device__ __forceinline__ void decode(const E* rows, const int* lengths, E* out, float* lse, const Params& p,
                                       Key key, Value value) {
    constexpr u32 D4 = D / 4, GROUPS = BLOCK / D4;  // a block has at least as many threads as a row has vectors
    static_assert(GROUPS > 0, "a row is larger than a block");
    __shared__ float shares[BLOCK];
    __shared__ vecf sums[BLOCK];
    const u32 t = threadIdx.x, g = blockIdx.x, part = g % p.P, h = g / p.P % p.H, token = g / p.P / p.H;
    const size_t b = token / p.T;
    const u32 seen = min(p.S, u32(max(lengths[b], 0)) + token % p.T + 1u), per = (p.S + p.P - 1) / p.P;
    const u32 end = min(seen, (part + 1) * per);
    const size_t query = ((size_t)token * (p.H + 2 * p.KVH) + h) * D4;
    const size_t cache = b * p.S * p.KVH + h / (p.H / p.KVH);  // row of the first key; the next is KVH further
    const u32 column = t % D4, group = t / D4;
    float top = LOW, total = 0.f;
    vecf acc = vec(0.f);
    for (u32 n = part * per; n < end; n += BLOCK) {
        const bool mine = n + t < end;
        float score = LOW;
        if (mine) {
            vecf products = vec(0.f);
#pragma unroll 8
            for (u32 c = 0; c < D4; c++) products += load(rows, query + c) * key(cache + (size_t)(n + t) * p.KVH, c);
            score = vec_sum(products) * p.scale;
        }
        const float top_here = fmaxf(top, block_max(score)), keep = expf(top - top_here);
        const float share = mine ? expf(score - top_here) : 0.f;
        shares[t] = share;
        __syncthreads();
        top = top_here;
        total = total * keep + share;
        acc = acc * keep;
        const u32 count = min(BLOCK, end - n);
        if (group < GROUPS)
            for (u32 j = group; j < count; j += GROUPS) {
                acc += value(cache + (size_t)(n + j) * p.KVH, column) * shares[j];
            }
        __syncthreads();  // before the next shares
    }
    total = block_sum(total);
    sums[t] = acc;
    __syncthreads();
    const float factor = total > 0.f ? 1.f / total : 0.f;
    if (t < D4) {
        for (u32 other = 1; other < GROUPS; other++) acc += sums[t + other * D4];
        store(out, (size_t)g * D4 + t, acc * factor);
    }
    if (t == 0) lse[g] = total > 0.f ? top + logf(total) : LOW;
}
