{% set floating = dict(spec.types)["F"].kind == "f" %}

@compute @workgroup_size(BLOCK)
fn index_select_forward(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) nwg: vec3u,
                        @builtin(local_invocation_index) t: u32) {
    let g = wid.x + wid.y * nwg.x;
    if (g >= p.groups) { return; }
    const n = max(B / W, 1u);  // nothing is launched where B is 0, but compiled
    let i = g * BLOCK + t;
    let row = i / n;
    if (row >= p.A * p.K) { return; }
    let from_ = index[row % p.K];
    if (u32(from_) < p.D) {
        out[i] = x[(row / p.K * p.D + u32(from_)) * n + i % n];
    } else {
{% if floating %}
        out[i] = vecF(F(bitcast<f32>(0x7fc00000u | (p.D & 1u))));  // not a constant: browsers refuse constant NaNs
{% else %}
        out[i] = vecF(0);
{% endif %}
    }
}
