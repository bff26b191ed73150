{% include "lib/reduce.wgsl" %}
// A workgroup walks over rows g, g + S, ...; each invocation keeps its columns' sums for the weight in registers.
{% import "lib/row.wgsl" as row with context %}
const COLUMNS = {{ row.columns }}u;  // per invocation

@compute @workgroup_size(BLOCK)
fn rms_norm_backward(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) nwg: vec3u,
                     @builtin(local_invocation_index) t: u32) {
    let g = wid.x + wid.y * nwg.x;
    if (g >= p.groups) { return; }
    let n = C / W;
    var dw: array<vecf, COLUMNS>;
    for (var row = g; row < p.N; row += p.S) {
{% if row.held %}
        var es: array<vecf, COLUMNS>;  // short rows are not loaded again
        var xs: array<vecf, COLUMNS>;
{% endif %}
        let base = row * n;
        let r = rstd[row];
        var b = vecf(0.0);
        for (var k = 0u; k < COLUMNS; k++) {
            let c = t + k * BLOCK;
            if (c < n) {
                let d = vecf(dout[base + c]);
                let v = vecf(x[base + c]);
                let dy = d * v * r;
{% if A %}
                let w = vecf(weight[c]);
{% endif %}
                b += dy{{ " * w" if A }};
{% if row.held %}
                es[k] = d{{ " * w" if A }};
                xs[k] = v;
{% endif %}
{% if P > 0 %}
                dw[k] += dy;
{% endif %}
            }
        }
        let mean = block_sum(vec_sum(b), t) / f32(C);
        for (var k = 0u; k < COLUMNS; k++) {
            let c = t + k * BLOCK;
            if (c < n) {
{% if row.held %}
                let e = es[k];
                let v = xs[k];
{% else %}
                let e = vecf(dout[base + c]){{ " * vecf(weight[c])" if A }};
                let v = vecf(x[base + c]);
{% endif %}
                let slope = r * (e - v * (r * mean)){{ " + vecf(dh[base + c])" if R }};
                dx[base + c] = vecF(slope);
{% if Z %}
                short_dx[base + c] = vecY(slope);
{% endif %}
            }
        }
    }
{% if P > 0 %}
    for (var k = 0u; k < COLUMNS; k++) {
        let c = t + k * BLOCK;
        if (c < n) { partial[g * n + c] = dw[k]; }
    }
{% endif %}
}
