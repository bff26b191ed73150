@compute @workgroup_size(BLOCK)
fn scale_by_norm(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) nwg: vec3u,
                 @builtin(local_invocation_index) t: u32) {
    let factor = p.max_norm / (norm[0] + 1e-6f);
    if (factor >= 1.0f) { return; }
    let first = (wid.x + wid.y * nwg.x) * 4u * BLOCK + t;
    for (var k = 0u; k < 4u; k++) {
        let i = first + k * BLOCK;
        if (i < p.N / W) { x[i] = vecF(vecf(x[i]) * factor); }
    }
}
