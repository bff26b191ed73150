// embedding_backward, which adds to what is there.
#include "lib/sum_lanes.cuh"
constexpr u32 n = C / W, COLUMNS = 32, LANES = BLOCK / COLUMNS, PARTS = (n + COLUMNS - 1) / COLUMNS;

KERNEL {
    const u32 t = threadIdx.x, v = blockIdx.x / PARTS, c = blockIdx.x % PARTS * COLUMNS + t % COLUMNS;
    const u32 end = first[v + 1];
    vecf total = vec(0.f);
    if (c < n) {
#pragma unroll 4
        for (u32 s = first[v] + t / COLUMNS; s < end; s += LANES) total += load(dout, (size_t)order[s] * n + c);
    }
    total = sum_lanes<COLUMNS>(total);
    if (t >= COLUMNS || c >= n || u32(first[v]) >= end) return;
    const size_t at = (size_t)v * n + c;
#pragma unroll
    for (u32 e = 0; e < W; e++) total.v[e] = float(F(total.v[e]));
    store(dweight, at, load(dweight, at) + total);
}
