// embedding_backward, which adds to what is there.
#include "lib/vec.cuh"
constexpr u32 n = C / W, COLUMNS = 32, LANES = BLOCK / COLUMNS, PARTS = (n + COLUMNS - 1) / COLUMNS;

KERNEL {
    __shared__ vecf sums[BLOCK];
    const u32 t = threadIdx.x, v = blockIdx.x / PARTS, c = blockIdx.x % PARTS * COLUMNS + t % COLUMNS;
    const u32 end = first[v + 1];
    vecf total = vec(0.f);
    if (c < n) {
#pragma unroll 4
        for (u32 s = first[v] + t / COLUMNS; s < end; s += LANES) total += load(dout, (size_t)order[s] * n + c);
    }
    if (LANES > 1) {
        sums[t] = total;
        __syncthreads();
        for (u32 lanes = LANES; lanes > 1;) {  // any number of lanes: BLOCK need not be a power of two
            const u32 half = (lanes + 1) / 2;
            if (t < (lanes - half) * COLUMNS) sums[t] += sums[t + half * COLUMNS];
            lanes = half;
            __syncthreads();
        }
        total = sums[t];
    }
    if (t >= COLUMNS || c >= n || u32(first[v]) >= end) return;
    const size_t at = (size_t)v * n + c;
#pragma unroll
    for (u32 e = 0; e < W; e++) total.v[e] = float(F(total.v[e]));
    store(dweight, at, load(dweight, at) + total);
}
