{# Several elementwise kernels in one; `f` is one element of all of them. Four elements go together where W is 4. #}
{% set wide = W == 4 %}
{% set lanes = ("[0]", "[1]", "[2]", "[3]") if wide else ("",) %}
{% include "lib/math.wgsl" %}
{% if dropout %}
{% include "lib/philox.wgsl" %}
{% endif %}
{% macro kept(kind, text) %}{{ "f32(F(" ~ text ~ "))" if kind == "F" and spec.types[0][1].short != "f32" else text }}{% endmacro %}
// A NaN stays, as in PyTorch: WGSL's own may return the other one.
fn max_(a: f32, b: f32) -> f32 { return select(select(max(a, b), b, is_nan(b)), a, is_nan(a)); }
fn min_(a: f32, b: f32) -> f32 { return select(select(min(a, b), b, is_nan(b)), a, is_nan(a)); }
fn sign_(a: f32) -> f32 { return f32(a > 0.0) - f32(a < 0.0); }
{% set text = stages | map(attribute="expression") | join %}
{% if "floor_" in text %}
{% set T = "f32" %}
{% include "lib/floor_division.wgsl" %}
{% endif %}
{% if "sin_" in text or "cos_" in text %}
{% include "lib/trigonometry.wgsl" %}
{% endif %}

struct Results { {% for k in outputs %}o{{ k }}: {{ stages[k].kind }}, {% endfor %} }

fn f({% for a in arrays %}x{{ loop.index0 }}: {{ a.kind }}, {% endfor %}words: array<u32, {{ [1, stages | selectattr("source") | list | length] | max }}>) -> Results {
{% set drop = namespace(at=0) %}
{% for kind in numbers %}
    let n{{ loop.index0 }} = p.n{{ loop.index0 }}{{ " != 0.0f" if kind == "bool" }};
{% endfor %}
{% for stage in stages %}
{% if stage.source %}
    let v{{ loop.index0 }} = {{ kept("F", "select(0.0f, " ~ stage.source ~ " * p.d" ~ stage.number ~ "_scale, words[" ~ drop.at ~ "] >= p.d" ~ stage.number ~ "_threshold)") }};
{% set drop.at = drop.at + 1 %}
{% else %}
    let v{{ loop.index0 }} = {{ kept(stage.result, stage.expression) }};
{% endif %}
{% endfor %}
    return Results({% for k in outputs %}v{{ k }}{{ ", " if not loop.last }}{% endfor %});
}

@compute @workgroup_size(BLOCK)
fn {{ spec.kernel.name }}(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) nwg: vec3u,
     @builtin(local_invocation_index) t: u32) {
    let v = (wid.x + wid.y * nwg.x) * BLOCK + t;
    let i = v * W;
    if (i >= p.N) { return; }
{% for a in arrays %}
{% set name = "x%d" % loop.index0 %}
{% set at = "i" if a.dense else "(" ~ a.term() ~ ")" %}
{% set close = " != 0u" if a.kind == "bool" else "" %}
{% if wide and a.along %}
{% if a.kind == "bool" %}
    let {{ name }}_ = {{ name }}[{{ at }} / 4u] != vec4u(0u);
{% else %}
    let {{ name }}_ = vec4<{{ a.kind }}>({{ name }}[{{ at }} / 4u]);
{% endif %}
{% elif wide %}
    let {{ name }}_ = vec4<{{ a.kind }}>({{ a.kind }}({{ name }}[{{ at }}]{{ close }}));
{% else %}
    let {{ name }}_ = {{ a.kind }}({{ name }}[{{ at }}]{{ close }});
{% endif %}
{% endfor %}
{% set drops = stages | selectattr("source") | list %}
{% for stage in drops %}
    let words{{ loop.index0 }} = words_at(p.d{{ stage.number }}_offset, {{ "v" if wide else "i / 4u" }});
{% endfor %}
{% for lane in lanes %}
    let r{{ loop.index0 }} = f({% for a in arrays %}x{{ loop.index0 }}_{{ lane }}, {% endfor %}array<u32, {{ [1, drops | length] | max }}>(
{%- for stage in drops %}words{{ loop.index0 }}[{{ lane[1:2] if wide else "i % 4u" }}]{{ ", " if not loop.last }}{% else %}0u{% endfor %}));
{% endfor %}
{% for k in outputs %}
{% set arg = spec.kernel.outputs[loop.index0] %}
{% set stored = spec.dtype(arg).wgsl %}
{% if wide %}
    o{{ k }}[v] = vec4<{{ stored }}>({% for lane in lanes %}{{ stored }}(r{{ loop.index0 }}.o{{ k }}){{ ", " if not loop.last }}{% endfor %});
{% else %}
    o{{ k }}[i] = {{ stored }}(r0.o{{ k }});
{% endif %}
{% endfor %}
}
