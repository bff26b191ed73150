// A workgroup has BLOCK vectors of the columns and walks over rows s, s + S, ...; each invocation keeps its columns'
// sums of dx.
{% include "lib/gelu.wgsl" %}
{% macro slopes(a) %}vecf(gelu_slope({{ a }}.x), gelu_slope({{ a }}.y), gelu_slope({{ a }}.z), gelu_slope({{ a }}.w)){% endmacro %}

@compute @workgroup_size(BLOCK)
fn bias_gelu_backward(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) nwg: vec3u,
                      @builtin(local_invocation_index) t: u32) {
    let n = C / W;
    let across = (n + BLOCK - 1u) / BLOCK;
    let g = wid.x + wid.y * nwg.x;
    let s = g / across;
    let c = g % across * BLOCK + t;
    if (g >= p.groups || c >= n) { return; }
    let shift = vecf(bias[c]);
    var sums = vecf(0.0);
    for (var row = s; row < p.N; row += p.S) {
        let i = row * n + c;
        let a = vecf(x[i]) + shift;
        let d = vecf(dout[i]) * {{ slopes("a") if W > 1 else "gelu_slope(a)" }};
        dx[i] = vecF(d);
        sums += d;
    }
{% if P %}
    partial[s * n + c] = sums;
{% endif %}
}
