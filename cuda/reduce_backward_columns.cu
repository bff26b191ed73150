// L columns side by side in a block; what a whole column shares is read once.
#include "lib/math.cuh"
#include "lib/vec.cuh"
{% set shared = names | reject("equalto", "x") | list %}

__device__ __forceinline__ float rule({% for name in names %}float {{ name }}, {% endfor %}const Params& p) {
    const float zero = 0.f, one = 1.f;
    return {{ rule }};
}

KERNEL {
    const u32 t = threadIdx.x, lanes = p.L < BLOCK ? p.L : BLOCK, width = p.I / W, s = blockIdx.x % p.S;
    const u32 more = p.K % p.S, begin = s * (p.K / p.S) + (s < more ? s : more), end = begin + p.K / p.S + (s < more);
    const size_t column = size_t(blockIdx.x / p.S) * lanes + t % lanes, n = column / width;
    if (n >= p.N) return;
    const size_t base = n * p.K * width + column % width;
{% for name in shared %}
    const vecf column_{{ name }} = load({{ name }}, column);
{% endfor %}
    for (u32 k = begin + t / lanes; k < end; k += BLOCK / lanes) {
        const size_t c = base + size_t(k) * width;
        vecf made = {{ "load(x, c)" if "x" in names else "vec(0.f)" }};
#pragma unroll
        for (u32 w = 0; w < W; w++)
            made.v[w] = rule(
                {% for name in names %}{{ "made" if name == "x" else "column_" ~ name }}.v[w], {% endfor %}p);
        store(dx, c, made);
    }
}
