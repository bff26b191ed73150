// A block adds up a few columns of the partial sums: LANES threads a column, then a tree over the lanes. How many rows
// a thread has is known before its loop, and registers are granted: so that eight loads are on their way at once.
#undef AT_ONCE
#define AT_ONCE , {{ 1024 // BLOCK or 1 }}
#include "lib/sum_lanes.cuh"
constexpr u32 n = C / W, COLUMNS = BLOCK < 8 ? BLOCK : 8, LANES = BLOCK / COLUMNS;

KERNEL {
    const u32 t = threadIdx.x, j = blockIdx.x * COLUMNS + t % COLUMNS;  // columns of row 0, then of row 1
    vecf total = vec(0.f);
    const u32 lane = t / COLUMNS, rows = j < P * n && lane < p.S ? (p.S - lane + LANES - 1) / LANES : 0;
#pragma unroll 8
    for (u32 k = 0; k < rows; k++) total += load(partial, (size_t)(lane + k * LANES) * P * n + j);
    total = sum_lanes<COLUMNS>(total);
    if (t >= COLUMNS) return;
    if (A && j < n) store(first, j, total);
    if (B && j >= n && j < 2 * n) store(second, j - n, total);
}
