{% include "lib/softmax.wgsl" %}
// A workgroup per row, in two passes: the largest element with the sum of exponentials, then the quotients.

@compute @workgroup_size(BLOCK)
fn softmax_forward(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) nwg: vec3u,
                   @builtin(local_invocation_index) t: u32) {
    let row = wid.x + wid.y * nwg.x;
    if (row >= p.groups) { return; }
    let n = p.C / W;
    let base = row * n;
    var top = LOWEST;
    var sum = 0.0;
    for (var c = t; c < n; c += BLOCK) { meet(vecf(x[base + c]), &top, &sum); }
    let m = block_max(top, t);
    let r = 1.0 / block_sum(sum * exp(top - m), t);
    for (var c = t; c < n; c += BLOCK) { y[base + c] = vecF(exp(vecf(x[base + c]) - m) * r); }
}
