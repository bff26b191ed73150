{% include "lib/cross_entropy.wgsl" %}
// One workgroup per row.

@compute @workgroup_size(BLOCK)
fn cross_entropy_backward(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) nwg: vec3u,
                          @builtin(local_invocation_index) t: u32) {
    let row = wid.x + wid.y * nwg.x;
    if (row >= p.groups) { return; }
    let n = L / W;
    let base = row * n;
    let l = lse[row];
    let label = targets[row];
    let ignored = label == p.ignore_index;
    let is_class = label >= 0 && label < i32(V);
    let nan = bitcast<f32>(0x7fc00000u | min(p.groups, 0u));  // not a constant: browsers refuse constant NaNs
    let factor = select(nan, dloss[min(row, p.D - 1u)] * scale[0], is_class);
    let at = select(0u, u32(label), is_class);
    for (var c = t; c < n; c += BLOCK) {
        var e = exp(vecf(logits[base + c]) - l){{ " - smoothing / f32(V)" if smoothing }};
        if (c == at / W) { e{{ "[at % W]" if W > 1 }} -= 1.0f{{ " - smoothing" if smoothing }}; }
        dlogits[base + c] = select(vecF(classes(e * factor, c, 0.0f)), vecF(0.0), ignored);
    }
}
