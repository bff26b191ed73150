{#- a{{ z }}4 and b{{ z }}4: four neighbours of a row of the stored matrix, 0 outside it. `base` is where the matrix begins. -#}
{% for name, rows, cols in (("a", "P", "Q"), ("b", "R", "S")) %}
fn {{ name }}{{ z }}4(base: u32, row: u32, col: u32) -> vec4f {
    if (row >= p.{{ rows }}{{ z }} || col >= p.{{ cols }}{{ z }}) { return vec4f(); }
    let at = base + row * p.{{ cols }}{{ z }} + col;
{% if cols + z in vectors %}
    return vec4f({{ name }}{{ z }}[at / 4u]);
{% else %}
    var v = vec4f(f32({{ name }}{{ z }}[at]), 0.0, 0.0, 0.0);
{% for e in (1, 2, 3) %}
    if (col + {{ e }}u < p.{{ cols }}{{ z }}) { v[{{ e }}] = f32({{ name }}{{ z }}[at + {{ e }}u]); }
{% endfor %}
    return v;
{% endif %}
}

// Rows k to k + 3 of the {{ name }} that is multiplied, each at four neighbours of the dimension that stays.
fn {{ name }}{{ z }}_block(base: u32, k: u32, i: u32) -> mat4x4f {
{% if (ta if name == "a" else not tb) %}
    return mat4x4f({% for e in range(4) %}{{ name }}{{ z }}4(base, k + {{ e }}u, i){{ ", " if e < 3 }}{% endfor %});
{% else %}
    return transpose(mat4x4f({% for e in range(4) %}{{ name }}{{ z }}4(base, i + {{ e }}u, k){{ ", " if e < 3 }}{% endfor %}));
{% endif %}
}

{% endfor %}
