// One workgroup per row. An invocation has every BLOCK-th token id to itself, so that no two write the same place.

@compute @workgroup_size(BLOCK)
fn mark_seen(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) nwg: vec3u,
             @builtin(local_invocation_index) t: u32) {
    let row = wid.x + wid.y * nwg.x;
    if (row >= p.groups) { return; }
    for (var i = row * p.T; i < (row + 1u) * p.T; i++) {
        let token = u32(tokens[i]);  // a negative one is too large then
        if (token < p.V && token % BLOCK == t) { seen[row * p.V + token] = 1u; }
    }
}
