{% set floating = dict(spec.types)["F"].kind == "f" %}

@compute @workgroup_size(BLOCK)
fn gather_forward(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) nwg: vec3u,
                  @builtin(local_invocation_index) t: u32) {
    let g = wid.x + wid.y * nwg.x;
    if (g >= p.groups) { return; }
    let i = g * BLOCK + t;
    if (i >= p.A * p.K * p.B) { return; }
    let at = u32(index[i]);
    if (at < p.D) {
        out[i] = x[(i / (p.K * p.B) * p.D + at) * p.B + i % p.B];
    } else {
{% if floating %}
        out[i] = F(bitcast<f32>(0x7fc00000u | (p.D & 1u)));  // not a constant: browsers refuse constant NaNs
{% else %}
        out[i] = F(0);
{% endif %}
    }
}
