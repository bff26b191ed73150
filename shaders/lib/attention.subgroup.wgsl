{# Attention where one subgroup is the workgroup, as macros: import them `with context`. For CPU drivers, where a load
   or a barrier costs as much as dozens of products. A lane owns rows whole, in registers; each lane loads some vec4 of
   the streamed rows, and a broadcast hands them to all. A side is as in attention.wgsl; D4 is a constant. #}
{% set SG, D4 = subgroup_size, D // 4 %}
{% set STEP = [2, (SG + D4 - 1) // D4] | max %}  {# streamed rows at a time: enough to give each lane a vec4 #}
{% set LOADS = (STEP * D4 + SG - 1) // SG %}

{% macro zeros(name, R) %}
    {% for r in range(R) %}{% for c in range(D4) %}
    var {{ name }}{{ r }}_{{ c }} = vec4f(0.0);
    {% endfor %}{% endfor %}
{% endmacro %}

{# name{r}_{c} = vec4 c of the lane's row r of a side; rows beyond the end repeat the last. Each load or store is a loop
   over lanes to such a driver's compiler: a loop over c, whose length it cannot see, halves the time to compile. #}
{% macro own(name, side, R, factor="") %}
{% set x, base, step, limit = side %}
    {{- zeros(name, R) }}
    {% for r in range(R) %}
    let {{ name }}_at{{ r }} = ({{ base }} + min(first + {{ r }}u * BLOCK + t, {{ limit }} - 1u) * {{ step }}) * D4;
    {% endfor %}
    for (var e = {{ name }}_at0; e < {{ name }}_at0 + D4; e++) {
        let c = e - {{ name }}_at0;
        {% for r in range(R) %}
        let x{{ r }} = vecf({{ x }}[{{ name }}_at{{ r }} + c]){{ factor }};
        {% for c in range(D4) %}
        {{ name }}{{ r }}_{{ c }} = select({{ name }}{{ r }}_{{ c }}, x{{ r }}, c == {{ c }}u);
        {% endfor %}
        {% endfor %}
    }
{% endmacro %}

{# every lane's share of rows n .. n+STEP-1 of a side #}
{% macro stream(name, side) %}
{% set x, base, step, limit = side %}
    {% for e in range(LOADS) %}
    let {{ name }}_row{{ e }} = min(n + ({{ e }}u * BLOCK + t) / D4, {{ limit }} - 1u);
    let {{ name }}_at{{ e }} = ({{ base }} + {{ name }}_row{{ e }} * {{ step }}) * D4 + ({{ e }}u * BLOCK + t) % D4;
    let {{ name }}_load{{ e }} = vecf({{ x }}[{{ name }}_at{{ e }}]);
    {% endfor %}
{% endmacro %}

{# vec4 c of streamed row j #}
{% macro hand(name, j, c) %}
{% set e = j * D4 + c %}
    let {{ name }}_{{ j }}_{{ c }} = subgroupBroadcast({{ name }}_load{{ e // SG }}, {{ e % SG }}u);
{% endmacro %}

{# s{r}_{j} = owned row r times streamed row j #}
{% macro scores(s, own, streamed, R) %}
    {% for r in range(R) %}{% for j in range(STEP) %}
    var {{ s }}{{ r }}_{{ j }} = 0.0;
    {% endfor %}{% endfor %}
    {% for c in range(D4) %}{% for j in range(STEP) %}
    {{- hand(streamed, j, c) }}
    {% for r in range(R) %}
    {{ s }}{{ r }}_{{ j }} += dot({{ own }}{{ r }}_{{ c }}, {{ streamed }}_{{ j }}_{{ c }});
    {% endfor %}
    {% endfor %}{% endfor %}
{% endmacro %}

{# acc{r} += sum over j of s{r}_{j} times streamed row j, which `scores` has handed out #}
{% macro product(acc, s, streamed, R) %}
    {% for c in range(D4) %}{% for r in range(R) %}
    {{ acc }}{{ r }}_{{ c }} += {{ s }}{{ r }}_0 * {{ streamed }}_0_{{ c }}
        {%- for j in range(1, STEP) %} + {{ s }}{{ r }}_{{ j }} * {{ streamed }}_{{ j }}_{{ c }}{% endfor %};
    {% endfor %}{% endfor %}
{% endmacro %}

{# the lane's rows of a side = acc times factor #}
{% macro store(side, acc, R, factor) %}
{% set x, base, step, limit = side %}
    {% for r in range(R) %}
    if (first + {{ r }}u * BLOCK + t < {{ limit }}) {
        let at = ({{ base }} + (first + {{ r }}u * BLOCK + t) * {{ step }}) * D4;
        for (var e = at; e < at + D4; e++) {
            let c = e - at;
            var y = {{ acc }}{{ r }}_0;
            {% for c in range(1, D4) %}
            y = select(y, {{ acc }}{{ r }}_{{ c }}, c == {{ c }}u);
            {% endfor %}
            {{ x }}[e] = vecF(y * {{ factor.format(r=r) }});
        }
    }
    {% endfor %}
{% endmacro %}
