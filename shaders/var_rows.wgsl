{% include "lib/reduce.wgsl" %}
// A workgroup per piece of a row: the piece's mean, then its squared deviations from it, so that nothing cancels.

@compute @workgroup_size(BLOCK)
fn var_rows(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) nwg: vec3u,
            @builtin(local_invocation_index) t: u32) {
    let g = wid.x + wid.y * nwg.x;
    if (g >= p.groups) { return; }
    let row = g / p.S;
    let s = g % p.S;
    let n = p.K / W;
    let more = n % p.S;
    let count = n / p.S + select(0u, 1u, s < more);
    let begin = row * n + s * (n / p.S) + min(s, more);
    let end = begin + count;
    var sum = vecf(0.0);
    for (var c = begin + t; c < end; c += BLOCK) { sum += vecf(x[c]); }
    let m = block_sum(vec_sum(sum), t) / f32(count * W);
    var q = vecf(0.0);
    for (var c = begin + t; c < end; c += BLOCK) { let d = vecf(x[c]) - m; q += d * d; }
    var v = block_sum(vec_sum(q), t) * p.scale;
    if (p.root == 1u) { v = sqrt(v); }
    if (t == 0u) {
        out[g] = A(v);
        exact[g] = v;
        mean[g] = m;
    }
}
