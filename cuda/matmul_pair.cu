#include "lib/matmul_tile.cuh"
{% macro wide(name) %}{{ (name in vectors) | lower }}{% endmacro %}

// The first blocks make one product, the others the other.
KERNEL {
    __shared__ Slices slices;
    const u32 g = blockIdx.x, first = (p.M + 63) / 64 * ((p.N + 63) / 64);
    if (g < first)
        product<ta, tb, {{ wide("Q") }}, {{ wide("S") }}>(
            slices, {a, p.P, p.Q}, {b, p.R, p.S}, nullptr, Result<{{ wide("N") }}>{out, p.N}, p.M, p.N, p.K, g);
    else
        product<ta2, tb2, {{ wide("Q2") }}, {{ wide("S2") }}>(
            slices, {a2, p.P2, p.Q2}, {b2, p.R2, p.S2}, nullptr, Result<{{ wide("N2") }}>{out2, p.N2}, p.M2, p.N2,
            p.K2, g - first);
}
