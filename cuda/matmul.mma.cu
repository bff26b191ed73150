// On tensor cores. A block owns ROWS x COLS of the result, a warp OWN_ROWS x OWN_COLS. Slices of both operands come in
// STAGES places of shared memory, and fragments are read one product ahead. Rows begin at multiples of 16 bytes.
// `epilogue` is what a single product does besides (dualml/ops/matmul_epilogues.py).
#include "lib/matmul_mma.cuh"
{% set epilogue = epilogue | default("") %}
{% if epilogue in ("gelu", "gelu_backward") %}
#include "lib/gelu.cuh"
{% endif %}
DYNAMIC_SHARED({{ 2 * STAGES * DEPTH * (ROWS + COLS) }})
#undef AT_ONCE
#define AT_ONCE , {{ 2 if ROWS == 128 else 3 if COLS == 128 else 4 }}

KERNEL {
    F* const stages = (F*)dynamic_shared;
    const u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const u32 down = (p.M + ROWS - 1) / ROWS, across = (p.N + COLS - 1) / COLS;
    // Bands of eight tile rows, column by column: blocks that run together share what they read.
    const u32 {{ "batch = 0, tile = blockIdx.x" if epilogue else "batch = blockIdx.x / (down * across), tile = blockIdx.x % (down * across)" }};
    const u32 band = tile / (8 * across) * 8, height = min(8u, down - band), in_band = tile % (8 * across);
    const u32 row = (band + in_band % height) * ROWS, col = in_band / height * COLS;
    const u32 own_row = warp % DOWN * OWN_ROWS, own_col = warp / DOWN * OWN_COLS;

    using Left = Operand<ta == 0, ROWS>;
    using Right = Operand<tb != 0, COLS>;
{% macro first(n) %}{% if not epilogue %} + (p.B{{ n }} == 1 ? 0 : batch * ((size_t)p.{{ "P * p.Q" if n == "A" else "R * p.S" }})){% endif %}{% endmacro %}
    Left left(a{{ first("A") }}, p.P, p.Q, row);
    Right right(b{{ first("B") }}, p.R, p.S, col);
    const auto left_lane = Left::template lane<true>(own_row);
    const auto right_lane = Right::template lane<false>(own_col);

    constexpr u32 SIZE = Left::SIZE + Right::SIZE;
    F *here = stages, *there = stages;  // the slice that is read, and where the next one goes
    const auto after = [&](F* slice) { return slice == stages + (STAGES - 1) * SIZE ? stages : slice + SIZE; };
    u32 missing = max(1u, (p.K + DEPTH - 1) / DEPTH), waiting = missing;
    const auto fetch = [&] {
        if (missing) {
            left.fetch(there);
            right.fetch(there + Left::SIZE);
            there = after(there);
            missing--;
        }
        copy_commit();
    };
#pragma unroll
    for (u32 s = 0; s < STAGES - 1; s++) fetch();

    float acc[OWN_ROWS / 16][OWN_COLS / 8][4];
#pragma unroll
    for (u32 j = 0; j < OWN_COLS / 8; j++)
#pragma unroll
        for (u32 i = 0; i < 4; i++) {
            const u32 x = col + own_col + j * 8 + lane % 4 * 2 + i % 2;
            const float start = {{ "x < p.N ? float(bias[x]) : 0.f" if has_bias else "0.f" }};
#pragma unroll
            for (u32 t = 0; t < OWN_ROWS / 16; t++) acc[t][j][i] = start;
        }

{% if epilogue == "sums" %}
    const bool adds = col + own_col == 0;
    float of_a[OWN_ROWS / 16][2] = {};  // what this lane has of the rows g and g + 8
{% endif %}
    u32 fa[2][OWN_ROWS / 16][4], fb[2][OWN_COLS / 16][4];
    const auto load = [&](u32 step) {
#pragma unroll
        for (u32 t = 0; t < OWN_ROWS / 16; t++) Left::fragment(fa[step % 2][t], here, left_lane, t, step);
#pragma unroll
        for (u32 t = 0; t < OWN_COLS / 16; t++)
            Right::fragment(fb[step % 2][t], here + Left::SIZE, right_lane, t, step);
    };
    copy_wait<STAGES - 2>();
    __syncthreads();
    load(0);
#pragma unroll 1
    for (; waiting; waiting--)
#pragma unroll
        for (u32 step = 0; step < STEPS; step++) {
            if (step + 1 == STEPS) {
                copy_wait<STAGES - 2>();
                __syncthreads();  // the next slice is here, and nobody reads this one any more
                here = after(here);
            }
            load((step + 1) % STEPS);  // at the end, of a slice that nobody needs
            if (step == 0) fetch();
{% if epilogue == "sums" %}
            if (adds)
#pragma unroll
                for (u32 t = 0; t < OWN_ROWS / 16; t++)
#pragma unroll
                    for (u32 i = 0; i < 4; i++) {
                        const float2 pair = unpack<F>(fa[step % 2][t][i]);
                        of_a[t][i % 2] += pair.x + pair.y;
                    }
{% endif %}
#pragma unroll
            for (u32 t = 0; t < OWN_ROWS / 16; t++)
#pragma unroll
                for (u32 j = 0; j < OWN_COLS / 8; j++) {
                    const u32(&pair)[4] = fb[step % 2][j / 2];
                    mma<F>(acc[t][j], fa[step % 2][t], pair[j % 2 * 2], pair[j % 2 * 2 + 1]);
                }
        }
    copy_wait<0>();
    __syncthreads();

{% include "lib/matmul_mma_end.cu" %}
}
