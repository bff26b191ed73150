// Reductions over a workgroup of BLOCK invocations (a power of two); every invocation gets the result.
{% if subgroups is not defined %}
var<workgroup> scratch: array<f32, BLOCK>;
{% endif %}

{% if W == 4 %}
fn vec_sum(v: vec4<f32>) -> f32 { return (v.x + v.y) + (v.z + v.w); }
fn vec_max(v: vec4<f32>) -> f32 { return max(max(v.x, v.y), max(v.z, v.w)); }
{% else %}
fn vec_sum(v: f32) -> f32 { return v; }
fn vec_max(v: f32) -> f32 { return v; }
{% endif %}

{% if subgroups is defined %}
// The workgroup is one subgroup: a CPU driver's barrier costs more than its sum.
fn block_sum(v: f32, t: u32) -> f32 { return subgroupAdd(v); }
fn block_max(v: f32, t: u32) -> f32 { return subgroupMax(v); }
{% else %}
fn block_sum(v: f32, t: u32) -> f32 {
    scratch[t] = v;
    workgroupBarrier();
    for (var s = BLOCK / 2u; s > 0u; s >>= 1u) {
        if (t < s) { scratch[t] += scratch[t + s]; }
        workgroupBarrier();
    }
    let total = scratch[0];
    workgroupBarrier();  // before scratch is used again
    return total;
}

fn block_max(v: f32, t: u32) -> f32 {
    scratch[t] = v;
    workgroupBarrier();
    for (var s = BLOCK / 2u; s > 0u; s >>= 1u) {
        if (t < s) { scratch[t] = max(scratch[t], scratch[t + s]); }
        workgroupBarrier();
    }
    let top = scratch[0];
    workgroupBarrier();
    return top;
}
{% endif %}
