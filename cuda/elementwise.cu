// One expression over any number of inputs; each thread does W neighbouring elements. An input that is the same for all
// of them is loaded once.
#include "lib/math.cuh"
#include "lib/trigonometry.cuh"
#include "lib/vec.cuh"
{% set kinds = {"f32": "float", "i32": "int", "bool": "bool"} %}
{% set out_arg = spec.kernel.outputs[0] %}
{% set out_kind = {"f": "float", "i": "int", "b": "bool"}[spec.dtype(out_arg).kind] %}

__device__ __forceinline__ {{ out_kind }} f({% for o in operands %}{{ kinds[o.dtype] }} {{ o.name }}{{ ", " if not loop.last }}{% endfor %}) {
    return {{ expression }};
}

KERNEL {
    const u32 i = (blockIdx.x * BLOCK + threadIdx.x) * W;
    if (i >= p.N) return;
{% for arg in spec.kernel.inputs %}
{% set o = operands[loop.index0] %}
{% set index = "i" if o.strides is none else "(" ~ o.term(sizes) ~ ")" %}
    const auto {{ o.name }}_ = {{ "load_stored(%s, %s / W)" % (o.name, index) if spec.vectorized(arg) else "%s[%s]" % (o.name, index) }};
{% endfor %}
    StoredVec<{{ spec.dtype(out_arg).cuda }}> made;
#pragma unroll
    for (u32 e = 0; e < W; e++) {
        const {{ out_kind }} r = f(
{%- for o in operands -%}
{% if o.number %}p.{{ o.name }}{% else %}{{ kinds[o.dtype] }}({{ o.name }}_{{ ".v[e]" if spec.vectorized(spec.kernel.inputs[loop.index0]) }}{{ " != 0u" if o.dtype == "bool" }}){% endif %}{{ ", " if not loop.last }}
{%- endfor %});
        made.v[e] = ({{ spec.dtype(out_arg).cuda }})r;
    }
    store_stored(result, i / W, made);
}
