// A vector of a new key or value each.
@compute @workgroup_size(BLOCK)
fn cache_append(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) nwg: vec3u,
                @builtin(local_invocation_index) t: u32) {
    let n = D / W;
    let i = (wid.x + wid.y * nwg.x) * BLOCK + t;
    if (i >= p.B * p.T * 2u * p.KVH * n) { return; }
    let column = i % n;
    let head = i / n % (2u * p.KVH);  // the keys' heads, then the values'
    let token = i / n / (2u * p.KVH);
    let b = token / p.T;
    let at = lengths[b] + i32(token % p.T);
    if (at < 0 || at >= i32(p.S)) { return; }
    let x = rows[(token * (p.H + 2u * p.KVH) + p.H + head) * n + column];
    let place = ((b * p.S + u32(at)) * p.KVH + head % p.KVH) * n + column;
    if (head < p.KVH) {
        keys[place] = x;
    } else {
        values[place] = x;
    }
}
