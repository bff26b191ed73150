@compute @workgroup_size(BLOCK)
fn decode_merge(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) nwg: vec3u,
                @builtin(local_invocation_index) t: u32) {
    let n = D / W;
    let i = (wid.x + wid.y * nwg.x) * BLOCK + t;  // a vector of one query
    if (i >= p.R / p.P * n) { return; }
    let first = i / n * p.P;
    var top = lse[first];
    for (var j = 1u; j < p.P; j++) { top = max(top, lse[first + j]); }
    var total = 0.0;
    var sum = vecf(0.0);
    for (var j = 0u; j < p.P; j++) {
        let share = exp(lse[first + j] - top);
        total += share;
        sum += share * vecf(part[(first + j) * n + i % n]);
    }
    out[i] = vecF(sum / total);
}
