// A block makes a tile of 64 x 64 from slices of 16 of the reduced dimension. A thread loads one 4x4 block of a or b
// per slice, and owns 8 rows x 4 columns of the result.
#include "lib/matmul_load.cuh"

constexpr u32 SLICE = 16;
constexpr bool A_WIDE = {{ "true" if "Q" in vectors else "false" }};
constexpr bool B_WIDE = {{ "true" if "S" in vectors else "false" }};
constexpr bool OUT_WIDE = {{ "true" if "N" in vectors else "false" }};
static_assert(BLOCK == 128, "the tile is cut for 128 threads");

__device__ __forceinline__ void store_row(F* out, size_t row, u32 width, u32 col, const float* v) {
    F* at = out + row * width + col;
    if (OUT_WIDE) {
        if (col < width) *(FourStored*)at = FourStored{F(v[0]), F(v[1]), F(v[2]), F(v[3])};
    } else {
#pragma unroll
        for (u32 e = 0; e < 4; e++)
            if (col + e < width) at[e] = F(v[e]);
    }
}

KERNEL {
    __shared__ Four a_slice[SLICE][16], b_slice[SLICE][16];  // [k][row / 4], [k][column / 4]
    const u32 t = threadIdx.x, tx = t % 16, ty = t / 16, k4 = ty % 4 * 4;
    const u32 across = (p.N + 63) / 64, down = (p.M + 63) / 64, batch = blockIdx.x / (across * down);
    const u32 row = blockIdx.x / across % down * 64, col = blockIdx.x % across * 64;
    const F* am = a + (p.BA == 1 ? 0 : batch) * ((size_t)p.P * p.Q);
    const F* bm = b + (p.BB == 1 ? 0 : batch) * ((size_t)p.R * p.S);
    float s[8][4];
#pragma unroll
    for (u32 j = 0; j < 4; j++) {
        const u32 c = col + tx * 4 + j;
        s[0][j] = has_bias && c < p.N ? float(bias[c]) : 0.f;
#pragma unroll
        for (u32 i = 1; i < 8; i++) s[i][j] = s[0][j];
    }
    for (u32 k = 0; k < p.K; k += SLICE) {
        if (t < 64)
            load_block<ta != 0, A_WIDE>(am, p.P, p.Q, k + k4, row + tx * 4, &a_slice[k4][tx], 16);
        else
            load_block<tb == 0, B_WIDE>(bm, p.R, p.S, k + k4, col + tx * 4, &b_slice[k4][tx], 16);
        __syncthreads();
#pragma unroll
        for (u32 e = 0; e < SLICE; e++) {
            const Four u = a_slice[e][ty], v = a_slice[e][ty + 8], w = b_slice[e][tx];
#pragma unroll
            for (u32 i = 0; i < 4; i++)
#pragma unroll
                for (u32 j = 0; j < 4; j++) {
                    s[i][j] += u.v[i] * w.v[j];
                    s[i + 4][j] += v.v[i] * w.v[j];
                }
        }
        __syncthreads();
    }
#pragma unroll
    for (u32 i = 0; i < 8; i++) {
        const u32 r = row + i / 4 * 32 + ty * 4 + i % 4;
        if (r < p.M) store_row(out, (size_t)batch * p.M + r, p.N, col + tx * 4, s[i]);
    }
}
