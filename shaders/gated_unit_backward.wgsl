{% include "lib/math.wgsl" %}

// The activation and its slope.
fn both(a: f32) -> vec2f {
{% if activation == 0 %}
    let s = sigmoid(a);
    return vec2f(a * s, s + a * s * (1.0f - s));
{% elif activation == 1 %}
    let phi = 0.5f * (1.0f + erf(0.70710678f * a));
    return vec2f(a * phi, phi + a * 0.39894228f * exp(-0.5f * a * a));
{% else %}
    let phi = 0.5f * (1.0f + tanh_(0.79788456f * a * (1.0f + 0.044715f * a * a)));
    return vec2f(a * phi, gelu_tanh_slope(a));
{% endif %}
}

@compute @workgroup_size(BLOCK)
fn gated_unit_backward(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) nwg: vec3u,
                       @builtin(local_invocation_index) t: u32) {
    let n = C / W;
    let i = (wid.x + wid.y * nwg.x) * BLOCK + t;
    if (i >= p.N * n) { return; }
    let gate = 2u * (i / n) * n + i % n;
    let d = vecf(dout[i]);
    let a = vecf(x[gate]);
{% if W > 1 %}
    let f = array<vec2f, 4>(both(a.x), both(a.y), both(a.z), both(a.w));
    dx[gate] = vecF(d * vecf(x[gate + n]) * vecf(f[0].y, f[1].y, f[2].y, f[3].y));
    dx[gate + n] = vecF(d * vecf(f[0].x, f[1].x, f[2].x, f[3].x));
{% else %}
    let f = both(a);
    dx[gate] = vecF(d * vecf(x[gate + n]) * f.y);
    dx[gate + n] = vecF(d * f.x);
{% endif %}
}
