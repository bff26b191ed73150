// Several elementwise kernels in one; each thread does W neighbouring elements of all of them. An array that is the
// same for all of them is loaded once.
#include "lib/math.cuh"
#include "lib/philox.cuh"
#include "lib/trigonometry.cuh"
#include "lib/vec.cuh"
{% set kinds = {"f32": "float", "i32": "int", "bool": "bool"} %}
{% set drops = stages | selectattr("source") | list %}

KERNEL {
    const u32 i = (blockIdx.x * BLOCK + threadIdx.x) * W;
    if (i >= p.N) return;
{% for kind in numbers %}
    const {{ kinds[kind] }} n{{ loop.index0 }} = p.n{{ loop.index0 }}{{ " != 0.f" if kind == "bool" }};
{% endfor %}
{% for stage in drops %}
    const Words words{{ stage.number }} = random_words(state, p.d{{ stage.number }}_offset, i / 4);
{% endfor %}
{% for a in arrays %}
{% set name = "x%d" % loop.index0 %}
{% set index = "i" if a.dense else "(" ~ a.term() ~ ")" %}
    const auto {{ name }}_ = {{ "load_stored(%s, %s / W)" % (name, index) if W == 4 and a.along else "%s[%s]" % (name, index) }};
{% endfor %}
{% for k in outputs %}
    StoredVec<{{ spec.dtype(spec.kernel.outputs[loop.index0]).cuda }}> made{{ k }};
{% endfor %}
#pragma unroll
    for (u32 e = 0; e < W; e++) {
{% for a in arrays %}
{% set name = "x%d" % loop.index0 %}
        const {{ kinds[a.kind] }} {{ name }} = {{ kinds[a.kind] }}({{ name }}_{{ ".v[e]" if W == 4 and a.along }}{{ " != 0u" if a.kind == "bool" }});
{% endfor %}
{% for stage in stages %}
{% set k = loop.index0 %}
{% if stage.source %}
        const float v{{ k }} = float(F(words{{ stage.number }}.w[{{ "e" if W == 4 else "i % 4" }}] < p.d{{ stage.number }}_threshold ? 0.f : {{ stage.source }} * p.d{{ stage.number }}_scale));
{% elif stage.result == "F" %}
        const float v{{ k }} = float(F({{ stage.expression }}));
{% else %}
        const {{ kinds[stage.kind] }} v{{ k }} = {{ stage.expression }};
{% endif %}
{% endfor %}
{% for k in outputs %}
        made{{ k }}.v[e] = ({{ spec.dtype(spec.kernel.outputs[loop.index0]).cuda }})v{{ k }};
{% endfor %}
    }
{% for k in outputs %}
    store_stored(o{{ k }}, i / W, made{{ k }});
{% endfor %}
}
