// A block sorts its own indices, and counts before which of them each of the others comes. What comes before its k-th
// are k of its own and all that were counted up to there. Whole numbers add up to the same in any order.
#include "lib/running_sum.cuh"

struct alignas(4 * W) Indices { int v[W]; };

__device__ constexpr u32 power_below(u32 n) { return n < 2 ? 1 : 2 * power_below(n / 2); }

KERNEL {
    __shared__ int keys[BLOCK], ranked[BLOCK];
    __shared__ u32 from[BLOCK], counts[BLOCK];
    const u32 t = threadIdx.x, begin = blockIdx.x * BLOCK, own = min(BLOCK, p.N - begin);
    const int key = t < own ? indices[begin + t] : 0;
    keys[t] = key;
    counts[t] = 0;
    __syncthreads();
    u32 rank = 0;
#pragma unroll 4
    for (u32 j = 0; j < own; j++) rank += (keys[j] < key) | ((keys[j] == key) & (j < t));
    if (t < own) { ranked[rank] = key; from[rank] = begin + t; }
    __syncthreads();
    for (u32 j = t; j < p.N / W; j += BLOCK) {
        if (j * W - begin < own) continue;  // its own: those before begin wrap around
        const bool earlier = j * W < begin;
        const Indices other = ((const Indices*)indices)[j];
        u32 smaller[W] = {};  // of its own, those that come before the other
#pragma unroll
        for (u32 step = power_below(BLOCK); step; step /= 2)
#pragma unroll
            for (u32 e = 0; e < W; e++) {
                const u32 next = smaller[e] + step;
                if (next > own) continue;
                const int mine = ranked[next - 1];
                if (mine < other.v[e] || (mine == other.v[e] && !earlier)) smaller[e] = next;
            }
#pragma unroll
        for (u32 e = 0; e < W; e++)
            if (smaller[e] < own) atomicAdd(&counts[smaller[e]], 1u);
    }
    __syncthreads();
    u32 total;
    const u32 before = running_sum(counts[t], total);
    if (t >= own) return;
    order[t + before] = int(from[t]);
    sorted[t + before] = ranked[t];
}
