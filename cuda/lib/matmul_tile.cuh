// A tile of 64 x 64 of a matrix product by a block of 128 threads.
#pragma once
#include "lib/matmul_load.cuh"

constexpr u32 SLICE = 16;
static_assert(BLOCK == 128, "the tile is cut for 128 threads");

// Slices of the reduced dimension, [k][row / 4] and [k][column / 4]; products of one kernel share them.
struct Slices { Four a[SLICE][16], b[SLICE][16]; };

template <bool wide> __device__ __forceinline__ void store_row(F* out, size_t row, u32 width, u32 col, const float* v) {
    F* at = out + row * width + col;
    if (wide) {
        if (col < width) *(FourStored*)at = FourStored{F(v[0]), F(v[1]), F(v[2]), F(v[3])};
    } else {
#pragma unroll
        for (u32 e = 0; e < 4; e++)
            if (col + e < width) at[e] = F(v[e]);
    }
}

struct Matrix { const F* at; u32 rows, cols; };  // as it is stored

// Where results go: `row` of them, four from `col` on, and, where ADDS, the sum of the row of a that they belong to.
template <bool WIDE> struct Result {
    static constexpr bool ADDS = false;
    F* out;
    u32 width;
    __device__ __forceinline__ void row(u32 y, u32 col, float (&v)[4]) const { store_row<WIDE>(out, y, width, col, v); }
    __device__ __forceinline__ void sum(u32, float) const {}
};

// Tile g of the product of a and b, [m,n], over `depth` elements. TA, TB: stored transposed. WIDE: rows are a multiple
// of four elements. `bias` may be null. A thread loads one 4x4 block of a or b per slice, and owns 8 rows x 4 columns
// of the result.
template <u32 TA, u32 TB, bool A_WIDE, bool B_WIDE, class End>
__device__ __forceinline__ void product(Slices& slices, Matrix a, Matrix b, const F* bias, const End& end, u32 m, u32 n,
                                        u32 depth, u32 g) {
    const u32 t = threadIdx.x, tx = t % 16, ty = t / 16, k4 = ty % 4 * 4, across = (n + 63) / 64;
    const u32 row = g / across * 64, col = g % across * 64;
    float sums[8][4], of_a = 0.f;
#pragma unroll
    for (u32 j = 0; j < 4; j++) {
        const u32 c = col + tx * 4 + j;
        sums[0][j] = bias && c < n ? float(bias[c]) : 0.f;
#pragma unroll
        for (u32 i = 1; i < 8; i++) sums[i][j] = sums[0][j];
    }
    for (u32 k = 0; k < depth; k += SLICE) {
        if (t < 64)
            load_block<TA != 0, A_WIDE>(a.at, a.rows, a.cols, k + k4, row + tx * 4, &slices.a[k4][tx], 16);
        else
            load_block<TB == 0, B_WIDE>(b.at, b.rows, b.cols, k + k4, col + tx * 4, &slices.b[k4][tx], 16);
        __syncthreads();
#pragma unroll
        for (u32 e = 0; e < SLICE; e++) {
            const Four u = slices.a[e][ty], v = slices.a[e][ty + 8], w = slices.b[e][tx];
#pragma unroll
            for (u32 i = 0; i < 4; i++)
#pragma unroll
                for (u32 j = 0; j < 4; j++) {
                    sums[i][j] += u.v[i] * w.v[j];
                    sums[i + 4][j] += v.v[i] * w.v[j];
                }
        }
        if (End::ADDS && col == 0 && t < 64)
            for (u32 e = 0; e < SLICE; e++) of_a += slices.a[e][t / 4].v[t % 4];
        __syncthreads();
    }
#pragma unroll
    for (u32 i = 0; i < 8; i++) {
        const u32 y = row + i / 4 * 32 + ty * 4 + i % 4;
        if (y < m) end.row(y, col + tx * 4, sums[i]);
    }
    if (End::ADDS && col == 0 && t < 64 && row + t < m) end.sum(row + t, of_a);
}
