// Keys: unsigned images of values (vecT, W of them), of which larger ones are better: they come first in the
// order that is asked for. -0 is like 0, and NaN counts as the largest.
{% set T = {"f": "f32"}.get(dict(spec.types)["F"].kind, dict(spec.types)["F"].wgsl) %}
alias vecT = {{ "vec4<" + T + ">" if W == 4 else T }};
alias vecu = {{ "vec4<u32>" if W == 4 else "u32" }};

fn key(x: vecT) -> vecu {
    let bits = bitcast<vecu>(x);
{% if T == "f32" %}
    var ordered = select(bits | vecu(0x80000000u), ~bits, bits > vecu(0x80000000u));
    ordered = select(ordered, vecu(0xffffffffu), (bits & vecu(0x7fffffffu)) > vecu(0x7f800000u));
{% elif T == "i32" %}
    let ordered = bits ^ vecu(0x80000000u);
{% else %}
    let ordered = bits;
{% endif %}
    return {{ "ordered" if largest else "~ordered" }};
}
