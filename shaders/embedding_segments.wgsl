// Binary search for the first place whose index is not below v.

@compute @workgroup_size(BLOCK)
fn embedding_segments(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) nwg: vec3u,
                      @builtin(local_invocation_index) t: u32) {
    let v = (wid.x + wid.y * nwg.x) * BLOCK + t;
    if (v > p.V) { return; }
    var low = 0u;
    var high = p.N;
    while (low < high) {
        let middle = (low + high) / 2u;
        if (sorted[middle] < i32(v)) { low = middle + 1u; } else { high = middle; }
    }
    first[v] = i32(low);
}
