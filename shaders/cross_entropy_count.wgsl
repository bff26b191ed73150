{% include "lib/reduce.wgsl" %}
// One workgroup for all rows.
{% set splat = "vec4<i32>" if W > 1 else "" %}

@compute @workgroup_size(BLOCK)
fn cross_entropy_count(@builtin(local_invocation_index) t: u32) {
    var kept = vecf(0.0);
    for (var i = t; i < p.N / W; i += BLOCK) {
        kept += select(vecf(0.0), vecf(1.0), targets[i] != {{ splat }}(p.ignore_index));
    }
    let count = block_sum(vec_sum(kept), t);
    let nan = bitcast<f32>(0x7fc00000u | min(p.groups, 0u));  // not a constant: browsers refuse constant NaNs
    if (t == 0u) { scale[0] = F(select(1.0f / count, nan, count == 0.0f)); }
}
