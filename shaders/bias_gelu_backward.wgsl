{% include "lib/math.wgsl" %}

fn slope(a: f32) -> f32 {
{% if approximate %}
    return gelu_tanh_slope(a);
{% else %}
    return 0.5f * (1.0f + erf(0.70710678f * a)) + a * 0.39894228f * exp(-0.5f * a * a);
{% endif %}
}

@compute @workgroup_size(BLOCK)
fn bias_gelu_backward(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) nwg: vec3u,
                      @builtin(local_invocation_index) t: u32) {
    let n = C / W;
    let i = (wid.x + wid.y * nwg.x) * BLOCK + t;
    if (i >= p.N * n) { return; }
    let a = vecf(x[i]) + vecf(bias[i % n]);
    dx[i] = vecF(vecf(dout[i]) * {{ "vecf(slope(a.x), slope(a.y), slope(a.z), slope(a.w))" if W > 1 else "slope(a)" }});
}
