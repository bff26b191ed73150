// A block adds up a few columns of the partial sums: LANES threads a column, then a tree over the lanes.
#include "lib/sum_lanes.cuh"
constexpr u32 n = C / W, COLUMNS = BLOCK < 8 ? BLOCK : 8, LANES = BLOCK / COLUMNS;

KERNEL {
    const u32 t = threadIdx.x, j = blockIdx.x * COLUMNS + t % COLUMNS;  // columns of row 0, then of row 1
    vecf total = vec(0.f);
    if (j < P * n) {
#pragma unroll 8
        for (u32 s = t / COLUMNS; s < p.S; s += LANES) total += load(partial, (size_t)s * P * n + j);
    }
    total = sum_lanes<COLUMNS>(total);
    if (t >= COLUMNS) return;
    if (A && j < n) store(first, j, total);
    if (B && j >= n && j < 2 * n) store(second, j - n, total);
}
