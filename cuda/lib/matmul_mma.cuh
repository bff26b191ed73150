// Matrix products on tensor cores: slices of both operands lie in shared memory as they do in global memory.
#pragma once
#include "lib/mma.cuh"

constexpr u32 WARPS = BLOCK / 32;
constexpr u32 OWN_ROWS = ROWS / DOWN, OWN_COLS = COLS * DOWN / WARPS;  // of a warp; DOWN of them below each other
constexpr u32 STEPS = DEPTH / 16;                                      // products in a slice
static_assert(sizeof(F) == 2 && OWN_ROWS % 16 == 0 && OWN_COLS % 16 == 0 && STEPS % 2 == 0, "no such tile");

// ldmatrix reads a chunk of 16 bytes of eight rows at a time: exchanging the chunks of a row by its number spreads them
// over all banks.
template <u32 WIDTH> __device__ __forceinline__ u32 turn(u32 row) { return WIDTH == 32 ? row / 2 % 4 : row % 8; }
template <u32 WIDTH> __device__ __forceinline__ u32 place(u32 row, u32 chunk) {
    return row * WIDTH + (chunk ^ turn<WIDTH>(row)) * 8;
}

// A stored matrix, of which SPAN rows (ALONG: they run along the sum) or columns stay; DEPTH of the sum are a slice.
template <bool ALONG, u32 SPAN> struct Operand {
    static constexpr u32 WIDTH = ALONG ? DEPTH : SPAN, HEIGHT = ALONG ? SPAN : DEPTH, SIZE = WIDTH * HEIGHT;
    static constexpr u32 CHUNKS = WIDTH / 8, STEP = BLOCK / CHUNKS;
    static_assert(BLOCK % CHUNKS == 0 && STEP % 8 == 0 && HEIGHT % STEP == 0, "all threads copy as many chunks");

    const F* from;  // this thread's next chunk, and where it lies
    u32 rows, cols, row, col;

    __device__ __forceinline__ Operand(const F* x, u32 rows, u32 cols, u32 first)
        : rows(rows), cols(cols), row(threadIdx.x / CHUNKS + (ALONG ? first : 0)),
          col(threadIdx.x % CHUNKS * 8 + (ALONG ? 0 : first)) {
        from = x + (size_t)row * cols + col;
    }

    // Starts the copy of the next slice; what lies outside the matrix becomes zero.
    __device__ __forceinline__ void fetch(F* slice) {
        F* const to = slice + place<WIDTH>(threadIdx.x / CHUNKS, threadIdx.x % CHUNKS);
        const F* at = from;
#pragma unroll
        for (u32 i = 0; i < HEIGHT / STEP; i++, at += (size_t)STEP * cols)
            copy_async<16>(to + i * STEP * WIDTH, at, row + i * STEP < rows && col < cols);
        from = ALONG ? from + DEPTH : at;
        (ALONG ? col : row) += DEPTH;
    }

    // Where a lane points at for ldmatrix in the part of a slice from `own`. Matrices 0 and 1 are the two halves of
    // what stays, 2 and 3 those of the second half of the sum; for b the other way round.
    struct Lane { u32 at, chunk; };
    template <bool IS_A> static __device__ __forceinline__ Lane lane(u32 own) {
        constexpr bool below = IS_A == ALONG;
        const u32 low = threadIdx.x / 8 % 2, high = threadIdx.x / 16 % 2;
        const u32 row = threadIdx.x % 8 + (below ? low : high) * 8;
        return {(row + (ALONG ? own : 0)) * WIDTH, (below ? high : low) ^ turn<WIDTH>(row) ^ (ALONG ? 0 : own / 8)};
    }
    // Fragment `tile` of 16 that stay, step `step` of 16 that are summed.
    static __device__ __forceinline__ void fragment(u32 (&d)[4], const F* slice, const Lane& lane, u32 tile, u32 step) {
        ldmatrix<!ALONG>(d, slice + lane.at + (ALONG ? tile : step) * 16 * WIDTH +
                                (lane.chunk ^ (ALONG ? step : tile) * 2) * 8);
    }
};
