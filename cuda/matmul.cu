#include "lib/matmul_tile.cuh"
{% macro wide(name) %}{{ (name in vectors) | lower }}{% endmacro %}

KERNEL {
    __shared__ Slices slices;
    const u32 tiles = (p.M + 63) / 64 * ((p.N + 63) / 64), batch = blockIdx.x / tiles;
    const Matrix left = {a + (p.BA == 1 ? 0 : batch) * ((size_t)p.P * p.Q), p.P, p.Q};
    const Matrix right = {b + (p.BB == 1 ? 0 : batch) * ((size_t)p.R * p.S), p.R, p.S};
    product<ta, tb, {{ wide("Q") }}, {{ wide("S") }}, {{ wide("N") }}>(
        slices, left, right, has_bias ? bias : nullptr, out + (size_t)batch * p.M * p.N, p.M, p.N, p.K,
        blockIdx.x % tiles);
}
