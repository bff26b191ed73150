// A block per piece of a row. Max and min start from the piece's first element, the others from what changes nothing.
#include "lib/fold.cuh"
{% set first = op in ("max", "min") and value == "plain" %}
{% set scaled = "scale" in spec.kernel.signature and spec.dtype(spec.kernel.outputs[0]).kind == "f" %}
{% set start = "T(1)" if op == "prod" or (op, value) == ("min", "truth") else "T(0)" %}
{% set made = {"plain": "T(v)", "truth": "T(v != V(0))", "zero": "T(v == V(0))", "tie": "T(v == V(y[row]))",
               "nonzero": "v == V(0) ? T(1) : T(v)"}[value] %}

using T = Compute<A>::type;
using V = Compute<F>::type;

KERNEL {
    const u32 s = blockIdx.x % p.S, t = threadIdx.x;
    const size_t row = blockIdx.x / p.S;
    const u32 n = p.K / W, least = n / p.S, more = n % p.S;
    const u32 begin = s * least + (s < more ? s : more), end = begin + least + (s < more);
    const auto* xr = (const Group<F, W>*)x + row * n;
    const {{ op | capitalize }} join;
    T acc = {{ "T(xr[begin].v[0])" if first else start }};
#pragma unroll 4
    for (u32 c = begin + t; c < end; c += BLOCK) {
        const auto group = xr[c];
#pragma unroll
        for (u32 w = 0; w < W; w++) {
            const V v = V(group.v[w]);
            acc = join(acc, {{ made }});
        }
    }
    acc = block_join(acc, join);
    if (t == 0) out[blockIdx.x] = A(acc{{ " * p.scale" if scaled }});
}
