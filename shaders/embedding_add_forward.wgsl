@compute @workgroup_size(BLOCK)
fn embedding_add_forward(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) nwg: vec3u,
                     @builtin(local_invocation_index) t: u32) {
    let n = C / W;
    let i = (wid.x + wid.y * nwg.x) * BLOCK + t;
    if (i >= p.N * n) { return; }
    let index = indices[i / n];
    if (index < 0 || index >= i32(p.V)) {
        let nan = bitcast<f32>(0x7fc00000u | min(p.groups, 0u));  // not a constant: browsers refuse constant NaNs
        out[i] = vecF(vecf(nan));
        return;
    }
    out[i] = vecF(vecf(weight[u32(index) * n + i % n]) + vecf(added[i % (p.L * n)]));
}
