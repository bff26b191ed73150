// Tiles of attention. A block owns ROWS rows; COLS rows stream past it. Its BLOCK threads are ROWS/4 x 8: each has 4
// owned rows by every eighth streamed one, or 4 owned rows by 4 of every 32 columns. A kernel sets COLS by what its
// registers hold.
#pragma once

constexpr u32 ROWS = BLOCK / 2;
constexpr u32 PART = D > 32 ? 64 : 32;  // columns of a row that are in shared memory at a time
constexpr u32 PARTS = (D + PART - 1) / PART, QUADS = PART / 32;
constexpr u32 PAD = 4;                  // spreads the rows over the banks

// One side of the products: `x` is the first element of the head, `step` the elements between its tokens.
struct Side { const F* x; u32 step, limit; };
struct Tiles { float a[ROWS][(PART > COLS ? PART : COLS) + PAD], b[COLS][PART + PAD]; };  // a: probabilities too
using Scores = float[4][COLS / 8];
using Sums = float[4][PARTS][QUADS][4];

__device__ __forceinline__ Side side(const F* x, size_t row, u32 step, u32 limit) {
    return {x + row * D, step * D, limit};
}

__device__ __forceinline__ float4 load4(const float* x) { return *(const float4*)x; }
template <class Half>
__device__ __forceinline__ float4 load4(const Half* x) {
    struct alignas(8) Four { Half x, y, z, w; };
    const Four h = *(const Four*)x;
    return make_float4(float(h.x), float(h.y), float(h.z), float(h.w));
}
__device__ __forceinline__ void store4(float* x, const float (&v)[4]) {
    *(float4*)x = make_float4(v[0], v[1], v[2], v[3]);
}
template <class Half>
__device__ __forceinline__ void store4(Half* x, const float (&v)[4]) {
    struct alignas(8) Four { Half x, y, z, w; };
    *(Four*)x = Four{Half(v[0]), Half(v[1]), Half(v[2]), Half(v[3])};
}

// tile = columns from `part * PART` of the rows from `first`, zero outside.
template <u32 N, u32 STRIDE>
__device__ __forceinline__ void stage(float (&tile)[N][STRIDE], const Side& s, u32 first, u32 part) {
#pragma unroll 4
    for (u32 e = threadIdx.x; e < N * (PART / 4); e += BLOCK) {
        const u32 r = e / (PART / 4), c = e % (PART / 4) * 4, d = part * PART + c;
        const bool in = first + r < s.limit && d < D;
        *(float4*)&tile[r][c] = in ? load4(s.x + (size_t)(first + r) * s.step + d) : make_float4(0.f, 0.f, 0.f, 0.f);
    }
}

// s = owned rows of `a` from `first` times streamed rows of `b` from `n`. Begins with a barrier, so that tiles in use
// may be staged over.
__device__ __forceinline__ void scores(Scores& s, Tiles& tiles, const Side& a, u32 first, const Side& b, u32 n) {
    const u32 tx = threadIdx.x % 8, ty = threadIdx.x / 8;
#pragma unroll
    for (u32 i = 0; i < 4; i++)
#pragma unroll
        for (u32 j = 0; j < COLS / 8; j++) s[i][j] = 0.f;
#pragma unroll
    for (u32 part = 0; part < PARTS; part++) {
        __syncthreads();
        stage(tiles.a, a, first, part);
        stage(tiles.b, b, n, part);
        __syncthreads();
#pragma unroll 1
        for (u32 d = 0; d < min(PART, D - part * PART); d += 4) {
            float4 x[4];
#pragma unroll
            for (u32 i = 0; i < 4; i++) x[i] = *(const float4*)&tiles.a[ty * 4 + i][d];
#pragma unroll
            for (u32 j = 0; j < COLS / 8; j++) {
                const float4 y = *(const float4*)&tiles.b[j * 8 + tx][d];
#pragma unroll
                for (u32 i = 0; i < 4; i++) s[i][j] += x[i].x * y.x + x[i].y * y.y + x[i].z * y.z + x[i].w * y.w;
            }
        }
    }
}

// acc += s times streamed rows of `b` from `n`. Begins with a barrier too.
__device__ __forceinline__ void product(Sums& acc, Tiles& tiles, const Scores& s, const Side& b, u32 n) {
    const u32 tx = threadIdx.x % 8, ty = threadIdx.x / 8;
#pragma unroll
    for (u32 part = 0; part < PARTS; part++) {
        __syncthreads();
        if (part == 0)
#pragma unroll
            for (u32 i = 0; i < 4; i++)
#pragma unroll
                for (u32 j = 0; j < COLS / 8; j++) tiles.a[ty * 4 + i][j * 8 + tx] = s[i][j];
        stage(tiles.b, b, n, part);
        __syncthreads();
#pragma unroll 1
        for (u32 c = 0; c < COLS; c += 4) {
            float4 x[4];
#pragma unroll
            for (u32 i = 0; i < 4; i++) x[i] = *(const float4*)&tiles.a[ty * 4 + i][c];
#pragma unroll
            for (u32 quad = 0; quad < QUADS; quad++)
#pragma unroll
                for (u32 k = 0; k < 4; k++) {
                    const float4 y = *(const float4*)&tiles.b[c + k][quad * 32 + tx * 4];
#pragma unroll
                    for (u32 i = 0; i < 4; i++) {
                        const float w = k == 0 ? x[i].x : k == 1 ? x[i].y : k == 2 ? x[i].z : x[i].w;
                        acc[i][part][quad][0] += w * y.x;
                        acc[i][part][quad][1] += w * y.y;
                        acc[i][part][quad][2] += w * y.z;
                        acc[i][part][quad][3] += w * y.w;
                    }
                }
        }
    }
}

// Owned row i of an output whose head begins at `row` = acc[i] * factor[i].
__device__ __forceinline__ void store_rows(F* x, size_t row, u32 step, u32 first, u32 limit, Sums& acc,
                                           const float (&factor)[4]) {
    const u32 tx = threadIdx.x % 8, ty = threadIdx.x / 8;
#pragma unroll
    for (u32 i = 0; i < 4; i++) {
        const u32 r = first + ty * 4 + i;
#pragma unroll
        for (u32 part = 0; part < PARTS; part++)
#pragma unroll
            for (u32 quad = 0; quad < QUADS; quad++) {
                const u32 d = part * PART + quad * 32 + tx * 4;
#pragma unroll
                for (u32 c = 0; c < 4; c++) acc[i][part][quad][c] *= factor[i];
                if (r < limit && d < D) store4(x + (row + (size_t)r * step) * D + d, acc[i][part][quad]);
            }
    }
}
