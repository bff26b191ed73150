// Several elementwise kernels in one; each thread does W neighbouring elements of all of them.
#include "lib/math.cuh"
#include "lib/philox.cuh"
{% set kinds = {"f32": "float", "i32": "int", "bool": "bool"} %}
{% set drops = stages | selectattr("source") | list %}

KERNEL {
    const u32 first = (blockIdx.x * BLOCK + threadIdx.x) * W;
    if (first >= p.N) return;
{% for kind in numbers %}
    const {{ kinds[kind] }} n{{ loop.index0 }} = p.n{{ loop.index0 }}{{ " != 0.f" if kind == "bool" }};
{% endfor %}
{% for stage in drops %}
    const Words words{{ stage.number }} = random_words(state, p.d{{ stage.number }}_offset, first / 4);
{% endfor %}
#pragma unroll
    for (u32 i = first; i < first + W; i++) {
{% for a in arrays %}
{% set k = loop.index0 %}
        const {{ kinds[a.kind] }} x{{ k }}_ = {{ kinds[a.kind] }}(x{{ k }}[{{ "i" if a.dense else a.term() }}]{{ " != 0u" if a.kind == "bool" }});
{% endfor %}
        const auto all = [&]({% for a in arrays %}const {{ kinds[a.kind] }} x{{ loop.index0 }}{{ ", " if not loop.last }}{% endfor %}) {
{% for stage in stages %}
{% set k = loop.index0 %}
{% if stage.source %}
            const float v{{ k }} = float(F(words{{ stage.number }}.w[i % 4] < p.d{{ stage.number }}_threshold ? 0.f : {{ stage.source }} * p.d{{ stage.number }}_scale));
{% elif stage.result == "F" %}
            const float v{{ k }} = float(F({{ stage.expression }}));
{% else %}
            const {{ kinds[stage.kind] }} v{{ k }} = {{ stage.expression }};
{% endif %}
{% endfor %}
{% for k in outputs %}
            o{{ k }}[i] = ({{ spec.dtype(spec.kernel.outputs[loop.index0]).cuda }})v{{ k }};
{% endfor %}
        };
        all({% for a in arrays %}x{{ loop.index0 }}_{{ ", " if not loop.last }}{% endfor %});
    }
}
