@compute @workgroup_size(BLOCK)
fn cache_positions(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) nwg: vec3u,
                   @builtin(local_invocation_index) t: u32) {
    let i = (wid.x + wid.y * nwg.x) * BLOCK + t;
    if (i >= p.B * p.T) { return; }
    out[i] = lengths[i / p.T] + i32(i % p.T);
}
