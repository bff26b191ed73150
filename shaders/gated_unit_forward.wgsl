{% include "lib/math.wgsl" %}

fn act(a: f32) -> f32 {
{% if activation == 0 %}
    return a * sigmoid(a);
{% elif activation == 1 %}
    return 0.5f * a * (1.0f + erf(0.70710678f * a));
{% else %}
    return 0.5f * a * (1.0f + tanh_(0.79788456f * a * (1.0f + 0.044715f * a * a)));
{% endif %}
}

@compute @workgroup_size(BLOCK)
fn gated_unit_forward(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) nwg: vec3u,
                      @builtin(local_invocation_index) t: u32) {
    let n = C / W;
    let i = (wid.x + wid.y * nwg.x) * BLOCK + t;
    if (i >= p.N * n) { return; }
    let gate = 2u * (i / n) * n + i % n;
    let a = vecf(x[gate]);
    out[i] = vecF({{ "vecf(act(a.x), act(a.y), act(a.z), act(a.w))" if W > 1 else "act(a)" }} * vecf(x[gate + n]));
}
