fn token(i: u32) -> i32 {
    if (i < p.N) { return tokens[i]; }
    return -1;
}

@compute @workgroup_size(BLOCK)
fn token_windows(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) nwg: vec3u,
    @builtin(local_invocation_index) t: u32) {
    let g = wid.x + wid.y * nwg.x;
    if (g >= p.groups) { return; }
    let i = g * BLOCK + t;
    if (i >= p.B * p.T) { return; }
    let first = u32(starts[i / p.T]) + i % p.T;
    x[i] = token(first);
    y[i] = token(first + 1u);
}
