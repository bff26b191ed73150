// Attention on tensor cores: tiles of rows of D 16-bit elements in shared memory, and the fragments of them.
#pragma once
#include "lib/mma.cuh"

constexpr u32 CHUNKS = D / 8;                // of 16 bytes, in a row
constexpr u32 WARPS = BLOCK / 32;
constexpr u32 OWNED = ROWS / WARPS;          // rows of a warp
constexpr u32 TILES = OWNED / 16;            // and the fragments they make
constexpr float LOG2_E = 1.4426950408889634f;
static_assert(D % 32 == 0 && sizeof(F) == 2 && TILES * 16 * WARPS == ROWS && COLS % 16 == 0, "no such tile");

// One side of the products: `x` is the first element of the head, `step` the elements between its tokens. Rows begin at
// multiples of 64 bytes, as D does.
struct Side { const F* x; u32 step, limit; };

__device__ __forceinline__ Side side(const F* x, size_t row, u32 step, u32 limit) {
    return {x + row * D, step * D, limit};
}

// ldmatrix reads a chunk of eight rows at a time: exchanging the chunks of a row by its number spreads them over all
// banks.
__device__ __forceinline__ u32 turn(u32 row) { return D % 64 ? row / 2 % 4 : row % 8; }
__device__ __forceinline__ u32 place(u32 row, u32 chunk) { return row * D + (chunk ^ turn(row)) * 8; }

// Starts the copy of N rows from `first`; those beyond the limit become zero.
template <u32 N> __device__ __forceinline__ void fetch(F* tile, const Side& s, u32 first) {
    static_assert(N * CHUNKS % BLOCK == 0, "all threads copy the same number of chunks");
    constexpr u32 PASSES = N * CHUNKS / BLOCK;
    if constexpr (BLOCK % (8 * CHUNKS) == 0) {  // a thread's chunks lie below each other: one address, and constants
        constexpr u32 STEP = BLOCK / CHUNKS;
        const u32 r = threadIdx.x / CHUNKS, c = threadIdx.x % CHUNKS;
        const F* from = s.x + (size_t)(first + r) * s.step + c * 8;
        F* const to = tile + place(r, c);
#pragma unroll
        for (u32 i = 0; i < PASSES; i++) {
            copy_async<16>(to + i * STEP * D, from, first + r + i * STEP < s.limit);
            from += (size_t)STEP * s.step;
        }
    } else {
#pragma unroll
        for (u32 i = 0; i < PASSES; i++) {
            const u32 e = i * BLOCK + threadIdx.x, r = e / CHUNKS, c = e % CHUNKS;
            copy_async<16>(tile + place(r, c), s.x + (size_t)(first + r) * s.step + c * 8, first + r < s.limit);
        }
    }
}

// Which part of a tile a lane points at for ldmatrix. `down`: matrices 0, 1 are rows 0-7 and 8-15 of a chunk, 2 and 3
// those of the next one (a; and b, transposed, for two times 8 columns). Else the other way round (b of rows).
struct Lane { u32 row, chunk; };
__device__ __forceinline__ Lane lane_part(bool down) {
    const u32 low = threadIdx.x / 8 % 2, high = threadIdx.x / 16 % 2, row = threadIdx.x % 8 + (down ? low : high) * 8;
    return {row * D, (down ? high : low) ^ turn(row)};
}
template <bool TRANSPOSED = false>
__device__ __forceinline__ void fragment(u32 (&d)[4], const F* tile, const Lane& lane, u32 row, u32 chunk) {
    ldmatrix<TRANSPOSED>(d, tile + row * D + lane.row + (lane.chunk ^ chunk) * 8);  // row % 16 == 0, chunk % 2 == 0
}

// s = owned rows (as fragments) times the COLS rows of a tile.
template <u32 NUMBER> __device__ __forceinline__ void clear(float (&s)[TILES][NUMBER][4]) {
#pragma unroll
    for (u32 t = 0; t < TILES; t++)
#pragma unroll
        for (u32 j = 0; j < NUMBER; j++)
#pragma unroll
            for (u32 i = 0; i < 4; i++) s[t][j][i] = 0.f;
}
using Scores = float[TILES][COLS / 8][4];
template <class Work> __device__ __forceinline__ void each_score(Work work) {  // NVRTC 13.0 takes no generic lambdas
#pragma unroll
    for (u32 t = 0; t < TILES; t++)
#pragma unroll
        for (u32 j = 0; j < COLS / 8; j++)
#pragma unroll
            for (u32 i = 0; i < 4; i++) work(t, j, i);
}
using Sums = float[TILES][D / 8][4];

// s += fragments `a` of 16 columns from `chunk` times the rows of a tile.
__device__ __forceinline__ void scores_step(Scores& s, const u32 (&a)[TILES][4], const F* tile, u32 chunk) {
    const Lane lane = lane_part(false);
#pragma unroll
    for (u32 j = 0; j < COLS / 16; j++) {
        u32 b[4];
        fragment(b, tile, lane, j * 16, chunk);
#pragma unroll
        for (u32 t = 0; t < TILES; t++) {
            mma<F>(s[t][2 * j], a[t], b[0], b[1]);
            mma<F>(s[t][2 * j + 1], a[t], b[2], b[3]);
        }
    }
}

// acc += s, rounded, times the rows of a tile.
__device__ __forceinline__ void product(Sums& acc, const Scores& s, const F* tile) {
    const Lane lane = lane_part(true);
#pragma unroll
    for (u32 j = 0; j < COLS / 16; j++) {
        u32 a[TILES][4];
#pragma unroll
        for (u32 t = 0; t < TILES; t++)
#pragma unroll
            for (u32 i = 0; i < 4; i++) {
                const float(&pair)[4] = s[t][2 * j + i / 2];
                a[t][i] = pack<F>(pair[i % 2 * 2], pair[i % 2 * 2 + 1]);
            }
#pragma unroll
        for (u32 c = 0; c < CHUNKS; c += 2) {
            u32 b[4];
            fragment<true>(b, tile, lane, j * 16, c);
#pragma unroll
            for (u32 t = 0; t < TILES; t++) {
                mma<F>(acc[t][c], a[t], b[0], b[1]);
                mma<F>(acc[t][c + 1], a[t], b[2], b[3]);
            }
        }
    }
}

// The warp's rows of an output = acc * factor, through its rows of a tile, so that 16 bytes are stored at a time. Owned
// row 16 t + 8 h + lane / 4 has factor[t][h].
__device__ __forceinline__ void store_rows(F* x, size_t row, u32 step, u32 first, u32 limit, F* tile, const Sums& acc,
                                           const float (&factor)[TILES][2]) {
    const u32 lane = threadIdx.x % 32, own = threadIdx.x / 32 * OWNED;
    __syncwarp();  // its fragments have been read
#pragma unroll
    for (u32 t = 0; t < TILES; t++)
#pragma unroll
        for (u32 c = 0; c < CHUNKS; c++)
#pragma unroll
            for (u32 h = 0; h < 2; h++)
                *(u32*)(tile + place(own + t * 16 + h * 8 + lane / 4, c) + lane % 4 * 2) =
                    pack<F>(acc[t][c][2 * h] * factor[t][h], acc[t][c][2 * h + 1] * factor[t][h]);
    __syncwarp();
#pragma unroll
    for (u32 e = lane; e < OWNED * CHUNKS; e += 32) {
        const u32 r = own + e / CHUNKS, c = e % CHUNKS;
        if (first + r < limit)
            *(uint4*)(x + (row + (size_t)(first + r) * step) * D + c * 8) = *(const uint4*)(tile + place(r, c));
    }
}
