@compute @workgroup_size(BLOCK)
fn refresh_master(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) nwg: vec3u,
                  @builtin(local_invocation_index) t: u32) {
    let first = (wid.x + wid.y * nwg.x) * 4u * BLOCK + t;
    for (var k = 0u; k < 4u; k++) {
        let i = first + k * BLOCK;
        if (i >= p.N / W) { return; }
        let x = vecf(param[i]);
        let kept = master[i];
        let near = abs(kept - x) <= abs(x) * p.near + 2.98023223876953125e-8f;
        if (!all(near)) { master[i] = select(x, kept, near); }  // as a rule there is nothing to write
    }
}
