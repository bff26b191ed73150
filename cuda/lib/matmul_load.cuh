// Loads of both operands of a matrix product, whichever way they are stored.
#pragma once

struct alignas(16) Four { float v[4]; };
struct alignas(4 * sizeof(F)) FourStored { F v[4]; };

// Four neighbours of a row of a stored matrix, 0 outside it; `wide` where rows are a multiple of four elements.
template <bool wide>
__device__ __forceinline__ Four load_four(const F* m, u32 rows, u32 cols, u32 row, u32 col) {
    Four r = {};
    if (row >= rows) return r;
    const F* at = m + (size_t)row * cols + col;
    if (wide) {
        if (col < cols) {
            const FourStored s = *(const FourStored*)at;
#pragma unroll
            for (u32 e = 0; e < 4; e++) r.v[e] = float(s.v[e]);
        }
    } else {
#pragma unroll
        for (u32 e = 0; e < 4; e++)
            if (col + e < cols) r.v[e] = float(at[e]);
    }
    return r;
}

// Rows k to k + 3 of what is multiplied, each at four neighbours i of the dimension that stays, into slice[e * stride].
// `k_first`: the stored rows run along i, so that no transposition is needed.
template <bool k_first, bool wide>
__device__ __forceinline__ void load_block(const F* m, u32 rows, u32 cols, u32 k, u32 i, Four* slice, u32 stride) {
    Four block[4];
#pragma unroll
    for (u32 e = 0; e < 4; e++)
        block[e] = k_first ? load_four<wide>(m, rows, cols, k + e, i) : load_four<wide>(m, rows, cols, i + e, k);
#pragma unroll
    for (u32 e = 0; e < 4; e++)
        slice[e * stride] = k_first ? block[e] : Four{block[0].v[e], block[1].v[e], block[2].v[e], block[3].v[e]};
}
