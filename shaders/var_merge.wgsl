{% include "lib/reduce.wgsl" %}
// A workgroup per row joins its S pieces (Chan, Golub, LeVeque 1979): each adds its own mean's deviation.

fn piece_length(s: u32) -> f32 {
    let unit = select(1u, 4u, p.K % 4u == 0u);
    let n = p.K / unit;
    return f32((n / p.S + select(0u, 1u, s < n % p.S)) * unit);
}

@compute @workgroup_size(BLOCK)
fn var_merge(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) nwg: vec3u,
             @builtin(local_invocation_index) t: u32) {
    let row = wid.x + wid.y * nwg.x;
    if (row >= p.groups) { return; }
    var sum = 0.0;
    for (var s = t; s < p.S; s += BLOCK) { sum += means[row * p.S + s] * piece_length(s); }
    let m = block_sum(sum, t) / f32(p.K);
    var q = 0.0;
    for (var s = t; s < p.S; s += BLOCK) {
        let d = means[row * p.S + s] - m;
        q += squares[row * p.S + s] + d * d * piece_length(s);
    }
    var v = block_sum(q, t) * p.scale;
    if (p.root == 1u) { v = sqrt(v); }
    if (t == 0u) {
        out[row] = A(v);
        exact[row] = v;
        mean[row] = m;
    }
}
