// Each invocation counts what comes before its element in its run: the better ones, and equal ones at earlier places.
{% include "lib/order.wgsl" %}

@compute @workgroup_size(BLOCK)
fn sort_runs(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) nwg: vec3u,
             @builtin(local_invocation_index) t: u32) {
    let g = wid.x + wid.y * nwg.x;
    if (g >= p.groups) { return; }
    let i = g * BLOCK + t;
    if (i >= p.R * p.C) { return; }
    let base = i / p.C * p.C;
    let at = i - base;
    let begin = at / p.length * p.length;
    let own = key(vecT(x[i]));
    var place = begin;
    for (var j = begin; j < min(begin + p.length, p.C); j++) {
        let other = key(vecT(x[base + j]));
        place += select(0u, 1u, other > own || (other == own && j < at));
    }
    order[base + place] = i32(at);
}
