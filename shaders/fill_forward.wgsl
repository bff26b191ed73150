@compute @workgroup_size(BLOCK)
fn fill_forward(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) nwg: vec3u,
                @builtin(local_invocation_index) t: u32) {
    let g = wid.x + wid.y * nwg.x;
    if (g >= p.groups) { return; }
    let i = g * BLOCK + t;
    if (i < p.N / W) { out[i] = vecF(F({{ "p.value" if floating else "p.whole" }})); }
}
