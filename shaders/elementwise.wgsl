// One expression over any number of inputs; `f` sees scalars, so it needs no vector versions of the functions it calls.
{% include "lib/math.wgsl" %}
{% set out_arg = spec.kernel.outputs[0] %}
{% set kinds = {"f32": "f32", "f16": "f32", "i32": "i32", "u32": "u32", "bool": "bool"} %}
{% set out_kind = kinds[spec.dtype(out_arg).short] %}
{% set wide = spec.vectorized(out_arg) %}
{% macro number(o) %}{{ "(p." ~ o.name ~ " != 0.0f)" if o.dtype == "bool" else "p." ~ o.name }}{% endmacro %}

{% set T = (operands | map(attribute="dtype") | reject("equalto", "bool") | list + ["f32"]) | first %}
// A NaN stays, as in PyTorch: WGSL's own may return the other one.
fn max_(a: {{ T }}, b: {{ T }}) -> {{ T }} {
    return {{ "select(select(max(a, b), b, is_nan(b)), a, is_nan(a))" if T == "f32" else "max(a, b)" }};
}
fn min_(a: {{ T }}, b: {{ T }}) -> {{ T }} {
    return {{ "select(select(min(a, b), b, is_nan(b)), a, is_nan(a))" if T == "f32" else "min(a, b)" }};
}
fn sign_(a: {{ T }}) -> {{ T }} { return {{ T }}(a > {{ T }}(0)) - {{ T }}(a < {{ T }}(0)); }
{% if "floor_" in expression %}
{% include "lib/floor_division.wgsl" %}
{% endif %}
{% if "sin_" in expression or "cos_" in expression %}
{% include "lib/trigonometry.wgsl" %}
{% endif %}

fn f({% for o in operands %}{{ o.name }}: {{ o.dtype }}{{ ", " if not loop.last }}{% endfor %}) -> {{ out_kind }} {
    return {{ expression }};
}

@compute @workgroup_size(BLOCK)
fn {{ spec.kernel.name }}(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) nwg: vec3u,
     @builtin(local_invocation_index) t: u32) {
    let g = wid.x + wid.y * nwg.x;
    let v = g * BLOCK + t;
{% if wide %}
    let i = v * 4u;
    if (i >= p.N) { return; }
{% else %}
    let i = v;
    if (i >= p.N) { return; }
{% endif %}
{% for arg in spec.kernel.inputs %}
{% set o = operands[loop.index0] %}
{% set index = "i" if o.strides is none else o.term(sizes) %}
{% set zero = "vec4<u32>(0u)" if spec.vectorized(arg) else "0u" %}
{% if spec.vectorized(arg) %}
    let {{ o.name }}4 = {{ "vec4<" ~ o.dtype ~ ">" if o.dtype != "bool" }}({{ arg.name }}[({{ index }}) / 4u]){{ " != " ~ zero if o.dtype == "bool" }};
{% elif wide %}
    let {{ o.name }}4 = vec4<{{ o.dtype }}>({{ o.dtype if o.dtype != "bool" }}({{ arg.name }}[{{ index }}]){{ " != 0u" if o.dtype == "bool" }});
{% else %}
    let {{ o.name }}1 = {{ o.dtype if o.dtype != "bool" }}({{ arg.name }}[{{ index }}]){{ " != 0u" if o.dtype == "bool" }};
{% endif %}
{% endfor %}
{% if wide %}
    let r = vec4<{{ out_kind }}>(
{% for lane in range(4) %}
        f({% for o in operands %}{{ number(o) if o.number else o.name ~ "4[" ~ lane ~ "]" }}{{ ", " if not loop.last }}{% endfor %}){{ "," if lane < 3 }}
{% endfor %}
    );
    result[v] = vec4<{{ spec.dtype(out_arg).wgsl }}>(r);
{% else %}
    result[i] = {{ spec.dtype(out_arg).wgsl }}(f({% for o in operands %}{{ number(o) if o.number else o.name ~ "1" }}{{ ", " if not loop.last }}{% endfor %}));
{% endif %}
}
