@compute @workgroup_size(BLOCK)
fn sgd_momentum(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) nwg: vec3u,
                @builtin(local_invocation_index) t: u32) {
    let lr = hyper[0];
    let decay = hyper[1];
    let momentum = hyper[2];
    let rest = hyper[3];
    let nesterov = hyper[4] != 0.0;
    if (scale[0] == 0.0) { return; }
    let first = (wid.x + wid.y * nwg.x) * 4u * BLOCK + t;
    for (var k = 0u; k < 4u; k++) {
        let i = first + k * BLOCK;
        if (i >= p.N / W) { return; }
        let x = vecf(param[i]);
        let g = vecf(grad[i]) * scale[0] + decay * x;
        let b = momentum * buffer[i] + rest * g;
        buffer[i] = b;
        param[i] = vecF(x - lr * select(b, g + momentum * b, nesterov));
    }
}
