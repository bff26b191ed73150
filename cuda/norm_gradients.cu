// A block adds up a few columns of the partial sums: LANES threads a column, then a tree over the lanes.
#include "lib/vec.cuh"
constexpr u32 n = C / W, COLUMNS = BLOCK < 8 ? BLOCK : 8, LANES = BLOCK / COLUMNS;

KERNEL {
    __shared__ vecf sums[BLOCK];
    const u32 t = threadIdx.x, j = blockIdx.x * COLUMNS + t % COLUMNS;  // weight's columns, then bias's
    vecf total = vec(0.f);
    if (j < P * n) {
#pragma unroll 8
        for (u32 s = t / COLUMNS; s < p.S; s += LANES) total += load(partial, (size_t)s * P * n + j);
    }
    sums[t] = total;
    __syncthreads();
    for (u32 lanes = LANES; lanes > 1;) {  // any number of lanes: BLOCK need not be a power of two
        const u32 half = (lanes + 1) / 2;
        if (t < (lanes - half) * COLUMNS) sums[t] += sums[t + half * COLUMNS];
        lanes = half;
        __syncthreads();
    }
    if (t >= COLUMNS) return;
    if (A && j < n) store(dweight, j, sums[t]);
    if (B && j >= n && j < 2 * n) store(dbias, j - n, sums[t]);
}
