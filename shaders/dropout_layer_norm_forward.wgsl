{% include "lib/philox.wgsl" %}
{% include "lib/reduce.wgsl" %}
// One workgroup per row, as in layer_norm_forward. Of long rows each invocation finds in h what it wrote there.
{% import "lib/row.wgsl" as row with context %}
const COLUMNS = {{ row.columns }}u;  // per invocation

@compute @workgroup_size(BLOCK)
fn dropout_layer_norm_forward(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) nwg: vec3u,
                              @builtin(local_invocation_index) t: u32) {
    let row = wid.x + wid.y * nwg.x;
    if (row >= p.groups) { return; }
    let n = C / W;
    let base = row * n;
{% if row.held %}
    var held: array<vecf, COLUMNS>;
{% endif %}
    var s = vecf(0.0);
    for (var k = 0u; k < COLUMNS; k++) {
        let c = t + k * BLOCK;
        if (c < n) {
            let kept = random_words(base + c) >= vec4u(p.threshold);
            let dropped = vecX(select(vec4f(0.0), vecf(x[base + c]) * p.scale, kept));
            let v = vecf(dropped){{ " + vecf(residual[base + c])" if R }};
            h[base + c] = vecF(v);
{% if row.held %}
            held[k] = vecf(vecF(v));
{% endif %}
            s += v;
        }
    }
    let m = block_sum(vec_sum(s), t) / f32(C);
    var q = vecf(0.0);
    for (var k = 0u; k < COLUMNS; k++) {
        let c = t + k * BLOCK;
        if (c < n) { let d = {{ "held[k]" if row.held else "vecf(h[base + c])" }} - m; q += d * d; }
    }
    let r = inverseSqrt(block_sum(vec_sum(q), t) / f32(C) + p.eps);
    for (var k = 0u; k < COLUMNS; k++) {
        let c = t + k * BLOCK;
        if (c < n) {
            let y = ({{ "held[k]" if row.held else "vecf(h[base + c])" }} - m) * r;
            out[base + c] = vecY(y{{ " * vecf(weight[c])" if A }}{{ " + vecf(bias[c])" if B }});
        }
    }
    if (t == 0u) {
        stats[row] = m;
        stats[p.N + row] = r;
    }
}
