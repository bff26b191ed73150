// L columns side by side in a block; the BLOCK / L threads of a column share its rows. BLOCK is a power of two.
#include "lib/fold.cuh"
#undef AT_ONCE
#define AT_ONCE , {{ 1024 // BLOCK or 1 }}
{% set first = op in ("max", "min") and value == "plain" %}
{% set scaled = "scale" in spec.kernel.signature and spec.dtype(spec.kernel.outputs[0]).kind == "f" %}
{% set start = "T(1)" if op == "prod" or (op, value) == ("min", "truth") else "T(0)" %}
{% set made = {"plain": "T(v)", "truth": "T(v != V(0))", "zero": "T(v == V(0))", "tie": "T(v == V(centre.v[w]))",
               "nonzero": "v == V(0) ? T(1) : T(v)"}[value] %}

using T = Compute<A>::type;
using V = Compute<F>::type;

KERNEL {
    __shared__ Group<T, W> parts[BLOCK];
    const u32 t = threadIdx.x, lanes = p.L < BLOCK ? p.L : BLOCK, width = p.I / W, s = blockIdx.x % p.S;
    const u32 least = p.K / p.S, more = p.K % p.S;
    const u32 step = BLOCK / lanes, begin = s * least + (s < more ? s : more), rows = least + (s < more);
    const u32 row = t / lanes, count = row < rows ? (rows - row + step - 1) / step : 0;  // of this thread
    const size_t column = size_t(blockIdx.x / p.S) * lanes + t % lanes, n = column / width;
    const bool inside = n < p.N;
    const auto* xc = (const Group<F, W>*)x + n * p.K * width + column % width;
    const {{ op | capitalize }} join;
    Group<T, W> acc;
#pragma unroll
    for (u32 w = 0; w < W; w++)
        acc.v[w] = {{ "inside ? T(xc[size_t(begin) * width].v[w]) : T(0)" if first else start }};
    if (inside) {
{% if value == "tie" %}
        const auto centre = ((const Group<F, W>*)y)[column];
{% endif %}
#pragma unroll 4
        for (u32 k = 0; k < count; k++) {  // a count that is known lets four loads be on their way at once
            const auto group = xc[size_t(begin + row + k * step) * width];
#pragma unroll
            for (u32 w = 0; w < W; w++) {
                const V v = V(group.v[w]);
                acc.v[w] = join(acc.v[w], {{ made }});
            }
        }
    }
    for (u32 d = BLOCK / 2; d >= lanes; d >>= 1) {
        parts[t] = acc;
        __syncthreads();
        if (t < d)
#pragma unroll
            for (u32 w = 0; w < W; w++) acc.v[w] = join(acc.v[w], parts[t + d].v[w]);
        __syncthreads();
    }
    if (t < lanes && inside)
#pragma unroll
        for (u32 w = 0; w < W; w++)
            out[((n * p.S + s) * width + column % width) * W + w] =
                A(acc.v[w]{{ " * p.scale" if scaled }});
}
