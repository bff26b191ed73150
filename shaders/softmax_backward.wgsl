{% include "lib/reduce.wgsl" %}
// dx = y * (dy - sum(y * dy)), a workgroup per row.

@compute @workgroup_size(BLOCK)
fn softmax_backward(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) nwg: vec3u,
                    @builtin(local_invocation_index) t: u32) {
    let row = wid.x + wid.y * nwg.x;
    if (row >= p.groups) { return; }
    let n = p.C / W;
    let base = row * n;
    var part = vecf(0.0);
    for (var c = t; c < n; c += BLOCK) { part += vecf(y[base + c]) * vecf(dy[base + c]); }
    let dot = block_sum(vec_sum(part), t);
    for (var c = t; c < n; c += BLOCK) {
        dx[base + c] = vecF(vecf(y[base + c]) * (vecf(dy[base + c]) - dot));
    }
}
