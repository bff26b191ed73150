@compute @workgroup_size(BLOCK)
fn sgd(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) nwg: vec3u,
       @builtin(local_invocation_index) t: u32) {
    if (scale[0] == 0.0) { return; }
    let first = (wid.x + wid.y * nwg.x) * 4u * BLOCK + t;
    for (var k = 0u; k < 4u; k++) {
        let i = first + k * BLOCK;
        if (i >= p.N / W) { return; }
        let x = vecf(param[i]);
        param[i] = vecF(x - hyper[0] * (vecf(grad[i]) * scale[0] + hyper[1] * x));
    }
}
