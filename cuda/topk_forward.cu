// One block per row: find the key of the k-th best, collect what is better and the first of what equals it, in any
// order, then give each its place by counting the better ones. Short rows are collected whole.
#include "lib/group.cuh"
#include "lib/order.cuh"
#include "lib/running_sum.cuh"
#undef AT_ONCE
#define AT_ONCE , {{ 1024 // BLOCK or 1 }}
constexpr u32 n = C / W;
constexpr bool LONG = C > 256;
constexpr u32 BITS = C > 4096 ? 11 : 8;  // of a key, looked at in one pass
constexpr u32 BINS = 1u << BITS;
constexpr u32 SHARE = (BINS + BLOCK - 1) / BLOCK;
constexpr u32 SEGMENT = (n + BINS - 1) / BINS;

// Calls f(key, place) for the W elements of group c of a row.
template <class Function> __device__ __forceinline__ void each(const F* row, u32 c, Function f) {
    const Group<F, W> group = ((const Group<F, W>*)row)[c];
#pragma unroll
    for (u32 w = 0; w < W; w++) f(key(group.v[w]), c * W + w);
}

template <class Function> __device__ __forceinline__ void whole(const F* row, Function f) {
#pragma unroll 4
    for (u32 c = threadIdx.x; c < n; c += BLOCK) each(row, c, f);
}

__device__ __forceinline__ void clear(u32* bins) {
    for (u32 b = threadIdx.x; b < BINS; b += BLOCK) bins[b] = 0;
    __syncthreads();
}

// The sum of all bins before this thread's; the sum with them in `through`.
__device__ __forceinline__ u32 settle(const u32* bins, u32& through) {
    const u32 t = threadIdx.x;
    __syncthreads();
    u32 sum = 0, total;
    for (u32 b = t * SHARE; b < (t + 1) * SHARE && b < BINS; b++) sum += bins[b];
    through = running_sum(sum, total);
    return through - sum;
}

KERNEL {
    __shared__ u32 keys[256], places[256], bins[BINS], filled, found[2];
    const u32 t = threadIdx.x;
    const F* row = x + (size_t)blockIdx.x * C;
    if (LONG) {
        u32 rest = p.K - 1, limit = 0, mask = 0, through;
        for (u32 left = 32; left > 0;) {
            const u32 last = (1u << min(BITS, left)) - 1;
            left -= min(BITS, left);
            clear(bins);
            whole(row, [&](u32 k, u32) { if (!((k ^ limit) & mask)) atomicAdd(&bins[last - (k >> left & last)], 1u); });
            const u32 before = settle(bins, through);
            if (rest >= before && rest < through) {
                u32 b = t * SHARE, more = rest - before;
                for (; more >= bins[b]; b++) more -= bins[b];
                found[0] = b;
                found[1] = more;
            }
            __syncthreads();
            limit |= (last - found[0]) << left;
            mask |= last << left;
            rest = found[1];
        }
        if (t == 0) filled = 0;
        clear(bins);
        whole(row, [&](u32 k, u32 place) {
            if (k > limit) {
                const u32 slot = atomicAdd(&filled, 1u);
                keys[slot] = k;
                places[slot] = place;
            } else if (k == limit) {
                atomicAdd(&bins[place / W / SEGMENT], 1u);
            }
        });
        u32 before = settle(bins, through);
        const u32 first = p.K - 1 - rest;
        for (u32 b = t * SHARE; b < (t + 1) * SHARE && b < BINS; b++) {
            if (!bins[b]) continue;
            for (u32 c = b * SEGMENT; c < min((b + 1) * SEGMENT, n) && before <= rest; c++) {
                each(row, c, [&](u32 k, u32 place) {
                    if (k != limit || before > rest) return;
                    keys[first + before] = k;
                    places[first + before++] = place;
                });
            }
        }
    } else {
        whole(row, [&](u32 k, u32 place) { keys[place] = k; places[place] = place; });
    }
    __syncthreads();
    const u32 count = LONG ? p.K : C;
    for (u32 i = t; i < count; i += BLOCK) {
        const u32 k = keys[i], at = places[i];
        u32 rank = 0;
        for (u32 j = 0; j < count; j++) rank += keys[j] > k || (keys[j] == k && places[j] < at);
        if (rank < p.K) {
            values[(size_t)blockIdx.x * p.K + rank] = row[at];
            indices[(size_t)blockIdx.x * p.K + rank] = int(at);
        }
    }
}
