{% include "lib/reduce.wgsl" %}
// One workgroup per row.

fn value(i: u32) -> vecf { return vecf(x[i]){{ " + vecf(residual[i])" if R }}; }

@compute @workgroup_size(BLOCK)
fn rms_norm_forward(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) nwg: vec3u,
                    @builtin(local_invocation_index) t: u32) {
    let row = wid.x + wid.y * nwg.x;
    if (row >= p.groups) { return; }
    let n = C / W;
    let base = row * n;
    var q = vecf(0.0);
    for (var c = t; c < n; c += BLOCK) { let v = value(base + c); q += v * v; }
    let r = inverseSqrt(block_sum(vec_sum(q), t) / f32(C) + p.eps);
    for (var c = t; c < n; c += BLOCK) {
        let v = value(base + c);
{% if R %}
        h[base + c] = vecF(v);
{% endif %}
        out[base + c] = vecY(v * r{{ " * vecf(weight[c])" if A }});
    }
    if (t == 0u) { rstd[row] = r; }
}
