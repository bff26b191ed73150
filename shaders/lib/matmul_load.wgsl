{#- a4 and b4: four neighbours of a row of the stored matrix, 0 outside it. `base` is where the matrix begins. -#}
{% for name, rows, cols in (("a", "P", "Q"), ("b", "R", "S")) %}
fn {{ name }}4(base: u32, row: u32, col: u32) -> vec4f {
    if (row >= p.{{ rows }} || col >= p.{{ cols }}) { return vec4f(); }
    let at = base + row * p.{{ cols }} + col;
{% if cols in vectors %}
    return vec4f({{ name }}[at / 4u]);
{% else %}
    var v = vec4f(f32({{ name }}[at]), 0.0, 0.0, 0.0);
{% for e in (1, 2, 3) %}
    if (col + {{ e }}u < p.{{ cols }}) { v[{{ e }}] = f32({{ name }}[at + {{ e }}u]); }
{% endfor %}
    return v;
{% endif %}
}

// Rows k to k + 3 of the {{ name }} that is multiplied, each at four neighbours of the dimension that stays.
fn {{ name }}_block(base: u32, k: u32, i: u32) -> mat4x4f {
{% if (ta if name == "a" else not tb) %}
    return mat4x4f({% for e in range(4) %}{{ name }}4(base, k + {{ e }}u, i){{ ", " if e < 3 }}{% endfor %});
{% else %}
    return transpose(mat4x4f({% for e in range(4) %}{{ name }}4(base, i + {{ e }}u, k){{ ", " if e < 3 }}{% endfor %}));
{% endif %}
}

{% endfor %}
