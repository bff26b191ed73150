{#- product, and `z` ends its name and those of its tensors and sizes: one tile of ROWS rows by BLOCK * COLS * 4 columns
    in registers, for CPU drivers, where a load costs as much as fifty multiply-adds. An invocation owns COLS vec4 of
    columns in each row, as scalars s<row>_<col>: arrays would be memory.
    With `broadcast` the workgroup is one subgroup: each lane loads other rows of a and all lanes get them from there.
    Loads past the edge of a matrix are not guarded: WebGPU keeps them inside the binding, and what they bring reaches
    only rows and columns that are not stored. -#}
{% set lanes = BLOCK if broadcast else 1 %}
{% set per_lane = 4 if ta else 1 %}
{% set chunk = lanes * per_lane %}
{% set chunks = (ROWS + chunk - 1) // chunk %}
{# with 16 lanes all of a is loaded before the first product, with fewer between products: see docs/decisions.md #}
{% set ahead = broadcast and BLOCK == 16 %}
{% set a4 = "Q" + z in vectors %}
{% set b4 = "S" + z in vectors %}
{% set out4 = "N" + z in vectors %}
{% macro vec(name, wide, at) %}
{% if wide %}vec4f({{ name }}[({{ at }}) / 4u]){% else %}
vec4f(f32({{ name }}[{{ at }}]), f32({{ name }}[{{ at }} + 1u]), f32({{ name }}[{{ at }} + 2u]), f32({{ name }}[{{ at }} + 3u])){% endif %}
{% endmacro %}
{# `count` values of k, 4 or 1, of the rows of chunk q of a #}
{% macro load(q, count) %}
{% set row = "row + %du" % (q * chunk) + (" + lane * %du" % per_lane if broadcast else "") %}
{% if ta %}
{% for k in range(count) %}
        let left{{ q }}_{{ k }} = {{ vec("a" + z, a4, "base_a + (k + %du) * p.Q%s + %s" % (k, z, row)) }};
{% endfor %}
{% elif count == 4 %}
        let left{{ q }} = {{ vec("a" + z, a4, "base_a + (%s) * p.Q%s + k" % (row, z)) }};
{% else %}
        let left{{ q }} = vec4f(f32(a{{ z }}[base_a + ({{ row }}) * p.Q{{ z }} + k]));
{% endif %}
{% endmacro %}
{# `count` values of k, 4 or 1, from k on #}
{% macro step(count) %}
{% for j in range(COLS) %}
{% if not tb %}
{% for k in range(count) %}
        let b{{ k }}_{{ j }} = {{ vec("b" + z, b4, "base_b + (k + %du) * p.S%s + col + %du" % (k, z, 4 * j)) }};
{% endfor %}
{% elif count == 4 %}
{% for e in range(4) %}
        let t{{ j }}_{{ e }} = {{ vec("b" + z, b4, "base_b + (col + %du) * p.S%s + k" % (4 * j + e, z)) }};
{% endfor %}
{% for k in range(4) %}
        let b{{ k }}_{{ j }} = vec4f({% for e in range(4) %}t{{ j }}_{{ e }}[{{ k }}]{{ ", " if e < 3 }}{% endfor %});
{% endfor %}
{% else %}
        let b0_{{ j }} = vec4f({% for e in range(4) %}f32(b{{ z }}[base_b + (col + {{ 4 * j + e }}u) * p.S{{ z }} + k]){{ ", " if e < 3 }}{% endfor %});
{% endif %}
{% endfor %}
{% if ahead %}{% for q in range(chunks) %}{{ load(q, count) }}{% endfor %}{% endif %}
{% for q in range(chunks) %}
{% if not ahead %}{{ load(q, count) }}{% endif %}
{% for l in range(lanes) if q * chunk + l * per_lane < ROWS %}
{% set source = "subgroupBroadcast(%%s, %du)" % l if broadcast else "%s" %}
{% if ta %}
{% for k in range(count) %}
        let x{{ q }}_{{ l }}_{{ k }} = {{ source % ("left%d_%d" % (q, k)) }};
{% endfor %}
{% else %}
        let x{{ q }}_{{ l }} = {{ source % ("left%d" % q) }};
{% endif %}
{% for e in range(per_lane) %}
{% set i = q * chunk + l * per_lane + e %}
{% for j in range(COLS) %}
        s{{ i }}_{{ j }} +={% for k in range(count) %} {% if ta %}x{{ q }}_{{ l }}_{{ k }}[{{ e }}]{% else %}x{{ q }}_{{ l }}[{{ k }}]{% endif %} * b{{ k }}_{{ j }}{{ " +" if not loop.last }}{% endfor %};
{% endfor %}
{% endfor %}
{% endfor %}
{% endfor %}
{% endmacro %}
fn product{{ z }}(g: u32, lane: u32) {
    let across = (p.N{{ z }} + {{ BLOCK * COLS * 4 - 1 }}u) / {{ BLOCK * COLS * 4 }}u;
    let down = (p.M{{ z }} + {{ ROWS - 1 }}u) / {{ ROWS }}u;
{% if batched %}
    let batch = g / (across * down);
    let base_a = select(batch, 0u, p.BA == 1u) * p.P * p.Q;
    let base_b = select(batch, 0u, p.BB == 1u) * p.R * p.S;
{% else %}
    let batch = 0u;
    let base_a = 0u;
    let base_b = 0u;
{% endif %}
{% if tb %}{# the next workgroup reads the same rows of a; or, where b's columns lie scattered, the same columns #}
    let row = g / across % down * {{ ROWS }}u;
    let first = g % across * {{ BLOCK * COLS * 4 }}u;
{% else %}
    let row = g % down * {{ ROWS }}u;
    let first = g / down % across * {{ BLOCK * COLS * 4 }}u;
{% endif %}
    let col = first + lane * {{ COLS * 4 }}u;
{% for j in range(COLS) %}
    var s0_{{ j }} = {% if has_bias %}vec4f({% for e in range(4) %}f32(bias[col + {{ 4 * j + e }}u]){{ ", " if e < 3 }}{% endfor %}){% else %}vec4f(){% endif %};
{% for i in range(1, ROWS) %}
    var s{{ i }}_{{ j }} = s0_{{ j }};
{% endfor %}
{% endfor %}
    var k = 0u;
    for (; k + 3u < p.K{{ z }}; k += 4u) {
{{ step(4) }}
    }
{% if not (a4 and not ta or b4 and tb) %}
    for (; k < p.K{{ z }}; k += 1u) {
{{ step(1) }}
    }
{% endif %}
    let at = (batch * p.M{{ z }} + row) * p.N{{ z }} + col;
{% for i in range(ROWS) %}
    if (row + {{ i }}u < p.M{{ z }}) {
{% for j in range(COLS) %}
{% if out4 %}
        if (col + {{ 4 * j }}u < p.N{{ z }}) { out{{ z }}[(at + {{ i }}u * p.N{{ z }} + {{ 4 * j }}u) / 4u] = vec4<F>(s{{ i }}_{{ j }}); }
{% else %}
{% for e in range(4) %}
        if (col + {{ 4 * j + e }}u < p.N{{ z }}) { out{{ z }}[at + {{ i }}u * p.N{{ z }} + {{ 4 * j + e }}u] = F(s{{ i }}_{{ j }}[{{ e }}]); }
{% endfor %}
{% endif %}
{% endfor %}
    }
{% endfor %}
}
