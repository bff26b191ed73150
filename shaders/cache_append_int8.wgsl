// A row of a new key or value each.
@compute @workgroup_size(BLOCK)
fn cache_append_int8(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) nwg: vec3u,
                     @builtin(local_invocation_index) t: u32) {
    let n = D / 4u;
    let i = (wid.x + wid.y * nwg.x) * BLOCK + t;
    if (i >= p.B * p.T * 2u * p.KVH) { return; }
    let head = i % (2u * p.KVH);  // the keys' heads, then the values'
    let token = i / (2u * p.KVH);
    let b = token / p.T;
    let at = lengths[b] + i32(token % p.T);
    if (at < 0 || at >= i32(p.S)) { return; }
    let first = (token * (p.H + 2u * p.KVH) + p.H + head) * n;
    var top = 0.0;
    for (var c = 0u; c < n; c++) {
        let x = abs(vecf(rows[first + c]));
        top = max(top, max(max(x.x, x.y), max(x.z, x.w)));
    }
    let unit = select(1.0, top, top > 0.0);
    let row = (b * p.S + u32(at)) * p.KVH + head % p.KVH;
    for (var c = 0u; c < n; c++) {
        let word = pack4x8snorm(vecf(rows[first + c]) / unit);
        if (head < p.KVH) {
            keys[row * n + c] = word;
        } else {
            values[row * n + c] = word;
        }
    }
    scales[select(p.M + row, row, head < p.KVH)] = top;
}
