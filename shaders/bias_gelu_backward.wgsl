{% include "lib/gelu.wgsl" %}
{% macro slopes(a) %}vecf(gelu_slope({{ a }}.x), gelu_slope({{ a }}.y), gelu_slope({{ a }}.z), gelu_slope({{ a }}.w)){% endmacro %}

@compute @workgroup_size(BLOCK)
fn bias_gelu_backward(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) nwg: vec3u,
                      @builtin(local_invocation_index) t: u32) {
    let n = C / W;
    let i = (wid.x + wid.y * nwg.x) * BLOCK + t;
    if (i >= p.N * n) { return; }
    let a = vecf(x[i]) + vecf(bias[i % n]);
    dx[i] = vecF(vecf(dout[i]) * {{ slopes("a") if W > 1 else "gelu_slope(a)" }});
}
