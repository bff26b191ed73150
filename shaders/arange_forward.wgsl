@compute @workgroup_size(BLOCK)
fn arange_forward(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) nwg: vec3u,
                  @builtin(local_invocation_index) t: u32) {
    let g = wid.x + wid.y * nwg.x;
    if (g >= p.groups) { return; }
    let i = g * BLOCK + t;
    if (i < p.N) { out[i] = F({{ "fma(f32(i), p.step, p.start)" if floating else "p.first + i32(i) * p.stride" }}); }
}
