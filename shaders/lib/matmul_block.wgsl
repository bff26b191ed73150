{#- product{{ z }}: a workgroup makes a tile of 64 x 64 from slices of 16 of the reduced dimension. An invocation loads one
    4x4 block of a or b per slice, and owns 8 rows x 4 columns of the result. `z` ends the names of tensors and sizes;
    the two slices are declared outside, as two products may share them. `epilogue` is what a single product does
    besides (dualml/ops/matmul_epilogues.py). -#}
{% include "lib/matmul_load.wgsl" %}
{% set epilogue = epilogue | default("") %}
{% if epilogue in ("gelu", "gelu_backward") %}{% include "lib/gelu.wgsl" %}{% endif %}
fn product{{ z }}(g: u32, t: u32) {
    let across = (p.N{{ z }} + 63u) / 64u;
    let down = (p.M{{ z }} + 63u) / 64u;
{% if batched %}
    let batch = g / (across * down);
    let base_a = select(batch, 0u, p.BA == 1u) * p.P * p.Q;
    let base_b = select(batch, 0u, p.BB == 1u) * p.R * p.S;
{% else %}
    let batch = 0u;
    let base_a = 0u;
    let base_b = 0u;
{% endif %}
    let row = g / across % down * 64u;
    let col = g % across * 64u;
    let tx = t % 16u;
    let ty = t / 16u;
    let k4 = ty % 4u * 4u;  // loading: invocations 0-63 read a, 64-127 read b
    let c = col + tx * 4u;
    var s0 = {% if has_bias %}vec4f({% for e in range(4) %}f32(bias[c + {{ e }}u]){{ ", " if e < 3 }}{% endfor %}){% else %}vec4f(){% endif %};
{% for i in range(1, 8) %}
    var s{{ i }} = s0;
{% endfor %}
{% if epilogue == "sums" %}
    var near = vec4f();  // sums of the rows of a that s0 to s3 belong to
    var far = vec4f();   // and those of s4 to s7
{% endif %}
    for (var k = 0u; k < p.K{{ z }}; k += SLICE) {
        if (t < 64u) {
            let block = a{{ z }}_block(base_a, k + k4, row + tx * 4u);
{% for e in range(4) %}
            a_slice[(k4 + {{ e }}u) * 16u + tx] = block[{{ e }}];
{% endfor %}
        } else {
            let block = b{{ z }}_block(base_b, k + k4, col + tx * 4u);
{% for e in range(4) %}
            b_slice[(k4 + {{ e }}u) * 16u + tx] = block[{{ e }}];
{% endfor %}
        }
        workgroupBarrier();
        for (var e = 0u; e < SLICE; e += 1u) {
            let u = a_slice[e * 16u + ty];
            let v = a_slice[e * 16u + ty + 8u];
            let w = b_slice[e * 16u + tx];
{% if epilogue == "sums" %}
            near += u;
            far += v;
{% endif %}
{% for i in range(4) %}
            s{{ i }} += u[{{ i }}] * w;
            s{{ i + 4 }} += v[{{ i }}] * w;
{% endfor %}
        }
        workgroupBarrier();
    }
{% for i in range(8) %}
    store{{ z }}(batch, row + ty * 4u + {{ i % 4 + (i // 4) * 32 }}u, c, s{{ i }});
{% endfor %}
{% if epilogue == "sums" %}
    if (c == 0u) {
{% for i in range(8) %}
        if (row + ty * 4u + {{ i % 4 + (i // 4) * 32 }}u < p.M) { sums[row + ty * 4u + {{ i % 4 + (i // 4) * 32 }}u] = F({{ "near" if i < 4 else "far" }}[{{ i % 4 }}]); }
{% endfor %}
    }
{% endif %}
}

{% macro put(at, v, wide) %}
{% set stored, f32s = ("vec4<F>", "vec4f") if wide else ("F", "f32") %}
{% macro each(f, x) %}{% if wide %}vec4f({% for e in range(4) %}{{ f }}({{ x }}[{{ e }}]){{ ", " if e < 3 }}{% endfor %}){% else %}{{ f }}({{ x }}){% endif %}{% endmacro %}
{% if epilogue == "gelu" %}
pre[{{ at }}] = {{ stored }}({{ v }}); out[{{ at }}] = {{ stored }}({{ each("gelu", v) }});
{%- elif epilogue == "gelu_backward" %}
let a = {{ f32s }}(pre[{{ at }}]); out[{{ at }}] = {{ stored }}({{ v }} * {{ each("gelu_slope", "a") }});
{%- else %}
out{{ z }}[{{ at }}] = {{ stored }}({{ v }});
{%- endif %}
{% endmacro %}
fn store{{ z }}(batch: u32, row: u32, col: u32, v: vec4f) {
    let at = (batch * p.M{{ z }} + row) * p.N{{ z }} + col;
    if (row >= p.M{{ z }}) { return; }
{% if "N" + z in vectors %}
    if (col < p.N{{ z }}) { {{ put("at / 4u", "v", true) }} }
{% else %}
{% for e in range(4) %}
    if (col + {{ e }}u < p.N{{ z }}) { {{ put("at + %du" % e, "v[%d]" % e, false) }} }
{% endfor %}
{% endif %}
}
