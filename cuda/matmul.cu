#include "lib/matmul_tile.cuh"
{% set epilogue = epilogue | default("") %}
{% if epilogue in ("gelu", "gelu_backward") %}
#include "lib/gelu.cuh"
{% endif %}
{% macro wide(name) %}{{ (name in vectors) | lower }}{% endmacro %}
{% set stored = "Result<%s>" % wide("N") %}

{% if epilogue %}
// A single product, and what it does besides (dualml/ops/matmul_epilogues.py).
struct End {
    static constexpr bool ADDS = {{ "true" if epilogue == "sums" else "false" }};
    {{ stored }} out;
    {{ "F*" if epilogue == "sums" else stored if epilogue == "gelu" else "const F*" }} other;

    __device__ __forceinline__ void row(u32 y, u32 col, float (&v)[4]) const {
{% if epilogue == "gelu" %}
        other.row(y, col, v);
        for (u32 e = 0; e < 4; e++) v[e] = gelu(v[e]);
{% elif epilogue == "gelu_backward" %}
        for (u32 e = 0; e < 4; e++)
            if (col + e < out.width) v[e] *= gelu_slope(float(other[(size_t)y * out.width + col + e]));
{% endif %}
        out.row(y, col, v);
    }
    __device__ __forceinline__ void sum(u32 y, float v) const { {{ "other[y] = F(v);" if epilogue == "sums" }} }
};

{% endif %}
KERNEL {
    __shared__ Slices slices;
{% if epilogue %}
    const End end = { {out, p.N}, {{ "sums" if epilogue == "sums" else "{pre, p.N}" if epilogue == "gelu" else "pre" }} };
    product<ta, tb, {{ wide("Q") }}, {{ wide("S") }}>(slices, {a, p.P, p.Q}, {b, p.R, p.S},
                                                      {{ "bias" if has_bias else "nullptr" }}, end, p.M, p.N, p.K,
                                                      blockIdx.x);
{% else %}
    const u32 tiles = (p.M + 63) / 64 * ((p.N + 63) / 64), batch = blockIdx.x / tiles;
    const Matrix left = {a + (p.BA == 1 ? 0 : batch) * ((size_t)p.P * p.Q), p.P, p.Q};
    const Matrix right = {b + (p.BB == 1 ? 0 : batch) * ((size_t)p.R * p.S), p.R, p.S};
    product<ta, tb, {{ wide("Q") }}, {{ wide("S") }}>(slices, left, right, has_bias ? bias : nullptr,
                                                      {{ stored }}{out + (size_t)batch * p.M * p.N, p.N}, p.M, p.N,
                                                      p.K, blockIdx.x % tiles);
{% endif %}
}
