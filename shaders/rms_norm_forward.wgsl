{% include "lib/reduce.wgsl" %}
// One workgroup per row; short rows are not loaded again.
{% import "lib/row.wgsl" as row with context %}
const COLUMNS = {{ row.columns }}u;  // per invocation

fn value(i: u32) -> vecf { return vecf(x[i]){{ " + vecf(residual[i])" if R }}; }

@compute @workgroup_size(BLOCK)
fn rms_norm_forward(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) nwg: vec3u,
                    @builtin(local_invocation_index) t: u32) {
    let row = wid.x + wid.y * nwg.x;
    if (row >= p.groups) { return; }
    let n = C / W;
    let base = row * n;
{% if row.held %}
    var held: array<vecf, COLUMNS>;
{% endif %}
    var q = vecf(0.0);
    for (var k = 0u; k < COLUMNS; k++) {
        let c = t + k * BLOCK;
        if (c < n) {
            let v = value(base + c);
{% if row.held %}
            held[k] = v;
{% endif %}
            q += v * v;
        }
    }
    let r = inverseSqrt(block_sum(vec_sum(q), t) / f32(C) + p.eps);
    for (var k = 0u; k < COLUMNS; k++) {
        let c = t + k * BLOCK;
        if (c < n) {
            let v = {{ "held[k]" if row.held else "value(base + c)" }};
{% if R %}
            h[base + c] = vecF(v);
{% endif %}
            out[base + c] = vecY(v * r{{ " * vecf(weight[c])" if A }});
        }
    }
    if (t == 0u) { rstd[row] = r; }
}
