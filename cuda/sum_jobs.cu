// A block belongs to one job; the BLOCK / lanes threads of a column share its rows, as in reduce_columns.
#include "lib/vec.cuh"

KERNEL {
    __shared__ vecf parts[BLOCK];
    const u32 t = threadIdx.x, g = blockIdx.x;
    u32 job = 0;
    while (job + 1 < J && jobs[(job + 1) * 9] <= g) job++;
    const u32* field = jobs + job * 9;
    const u32 source = field[1], rows = field[3], width = field[4], pieces = field[7], local = g - field[0];
    const u32 lanes = field[6] < BLOCK ? field[6] : BLOCK, column = local / pieces * lanes + t % lanes;
    const u32 s = local % pieces, least = rows / pieces, more = rows % pieces;
    const u32 step = BLOCK / lanes, begin = s * least + (s < more ? s : more) + t / lanes;
    const u32 own = least + (s < more), count = t / lanes < own ? (own - t / lanes + step - 1) / step : 0;
    const F* x = source == 0 ? x0 : source == 1 ? x1 : source == 2 ? x2 : source == 3 ? x3 : source == 4 ? x4 : x5;
    vecf acc = vec(0.f);
    if (column < width)
#pragma unroll 4
        for (u32 k = 0; k < count; k++) acc += load(x, field[2] + column + (size_t)(begin + k * step) * field[5]);
    for (u32 d = BLOCK / 2; d >= lanes; d >>= 1) {
        parts[t] = acc;
        __syncthreads();
        if (t < d) acc += parts[t + d];
        __syncthreads();
    }
    if (t < lanes && column < width) store(out, field[8] + (size_t)s * width + column, acc);
}
