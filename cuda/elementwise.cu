// One expression over any number of inputs; each thread does W neighbouring elements.
#include "lib/math.cuh"
{% set kinds = {"f32": "float", "i32": "int", "bool": "bool"} %}
{% set out_arg = spec.kernel.outputs[0] %}
{% set out_kind = {"f": "float", "i": "int", "b": "bool"}[spec.dtype(out_arg).kind] %}

__device__ __forceinline__ {{ out_kind }} f({% for o in operands %}{{ kinds[o.dtype] }} {{ o.name }}{{ ", " if not loop.last }}{% endfor %}) {
    return {{ expression }};
}

KERNEL {
    const u32 first = (blockIdx.x * BLOCK + threadIdx.x) * W;
    if (first >= p.N) return;
#pragma unroll
    for (u32 i = first; i < first + W; i++) {
        const {{ out_kind }} r = f(
{%- for o in operands -%}
{% if o.number %}p.{{ o.name }}{% else %}{{ kinds[o.dtype] }}({{ o.name }}[{{ "i" if o.strides is none else o.term(sizes) }}]{{ " != 0u" if o.dtype == "bool" }}){% endif %}{{ ", " if not loop.last }}
{%- endfor %});
        result[i] = ({{ spec.dtype(out_arg).cuda }})r;
    }
}
