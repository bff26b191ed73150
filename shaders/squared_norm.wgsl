{% include "lib/reduce.wgsl" %}
// Each workgroup has neighbouring vectors.

@compute @workgroup_size(BLOCK)
fn squared_norm(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) nwg: vec3u,
                @builtin(local_invocation_index) t: u32) {
    let g = wid.x + wid.y * nwg.x;
    if (g >= p.groups) { return; }
    let n = p.N / W;
    let size = (n + p.S - 1u) / p.S;
    let end = min(n, (g + 1u) * size);
    var total = vecf(0.0);
    for (var i = g * size + t; i < end; i += BLOCK) {
        let v = vecf(x[i]);
        total += v * v;
    }
    let sum = block_sum(vec_sum(total), t);
    if (t == 0u) { partial[g] = sum; }
}
