@compute @workgroup_size(BLOCK)
fn mark_seen(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) nwg: vec3u,
             @builtin(local_invocation_index) t: u32) {
    let i = (wid.x + wid.y * nwg.x) * BLOCK + t;
    if (i >= p.B * p.T) { return; }
    let token = tokens[i];
    if (token >= 0 && token < i32(p.V)) { seen[i / p.T * p.V + u32(token)] = 1u; }
}
