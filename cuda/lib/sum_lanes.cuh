// Sums of vectors over a block's lanes: thread t has column t % COLUMNS, and there are BLOCK / COLUMNS of each.
#pragma once
#include "lib/vec.cuh"

// Each column's sum, in a fixed tree, for threads below COLUMNS.
template <u32 COLUMNS> __device__ __forceinline__ vecf sum_lanes(vecf own) {
    __shared__ vecf sums[BLOCK];
    const u32 t = threadIdx.x;
    sums[t] = own;
    __syncthreads();
    for (u32 lanes = BLOCK / COLUMNS; lanes > 1;) {  // any number of them: BLOCK need not be a power of two
        const u32 half = (lanes + 1) / 2;
        if (t < (lanes - half) * COLUMNS) sums[t] += sums[t + half * COLUMNS];
        lanes = half;
        __syncthreads();
    }
    return sums[t];
}
