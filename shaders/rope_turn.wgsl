@compute @workgroup_size(BLOCK)
fn rope_turn(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) nwg: vec3u,
             @builtin(local_invocation_index) t: u32) {
    let n = R / W;
    let i = (wid.x + wid.y * nwg.x) * BLOCK + t;  // the vector `column` of both halves of head `head`
    if (i >= p.M / 2u * n) { return; }
    let column = i % n;
    let head = i / n;
    let low = 2u * head * n + column;
    if (head % heads >= turned) {
        out[low] = x[low];
        out[low + n] = x[low + n];
        return;
    }
    let token = head / heads;
    var at = i32(p.offset + token % p.T);
    if (p.P == 1u) {
        at += starts[0];
    } else if (p.P > 1u) {
        at += starts[token / p.T];
    }
    if (at < 0 || at >= i32(p.L / 2u)) {
        let nan = bitcast<f32>(0x7fc00000u | min(p.groups, 0u));  // not a constant: browsers refuse constant NaNs
        out[low] = vecF(vecf(nan));
        out[low + n] = vecF(vecf(nan));
        return;
    }
    let row = 2u * u32(at) * n + column;
    let c = vecf(table[row]);
    let s = vecf(table[row + n]) * p.sign;
    let a = vecf(x[low]);
    let b = vecf(x[low + n]);
    out[low] = vecF(a * c - b * s);
    out[low + n] = vecF(b * c + a * s);
}
