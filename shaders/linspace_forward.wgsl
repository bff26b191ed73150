@compute @workgroup_size(BLOCK)
fn linspace_forward(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) nwg: vec3u,
                    @builtin(local_invocation_index) t: u32) {
    let g = wid.x + wid.y * nwg.x;
    if (g >= p.groups) { return; }
    let i = g * BLOCK + t;
    if (i >= p.N) { return; }
    out[i] = F(select(p.stop - f32(p.N - 1u - i) * p.step, p.start + f32(i) * p.step, i < p.N - i));
}
