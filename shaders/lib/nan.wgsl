// NaN of what a kernel computes in (T, vecT). WGSL lets compilers assume that there is none, so its bits are looked at.
{% if T == "f32" %}
fn nan(v: T) -> bool { return (bitcast<u32>(v) & 0x7fffffffu) > 0x7f800000u; }
{% if W == 4 %}
fn vec_nan(v: vecT) -> vec4<bool> { return (bitcast<vec4<u32>>(v) & vec4<u32>(0x7fffffffu)) > vec4<u32>(0x7f800000u); }
{% else %}
fn vec_nan(v: vecT) -> bool { return nan(v); }
{% endif %}
{% else %}
fn nan(v: T) -> bool { return false; }
fn vec_nan(v: vecT) -> {{ "vec4<bool>" if W == 4 else "bool" }} { return {{ "vec4<bool>(false)" if W == 4 else "false" }}; }
{% endif %}
