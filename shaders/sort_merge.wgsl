// Two neighbouring runs become one: each invocation counts by binary search what its element passes in the other run.
// An element of the left run passes what is better, one of the right run what is as good, too.
{% include "lib/order.wgsl" %}

@compute @workgroup_size(BLOCK)
fn sort_merge(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) nwg: vec3u,
              @builtin(local_invocation_index) t: u32) {
    let g = wid.x + wid.y * nwg.x;
    if (g >= p.groups) { return; }
    let i = g * BLOCK + t;
    if (i >= p.R * p.C) { return; }
    let base = i / p.C * p.C;
    let at = i - base;
    let middle = min(at / (2u * p.length) * (2u * p.length) + p.length, p.C);
    let left = at < middle;
    let begin = select(middle - p.length, middle, left);
    let own = key(vecT(x[base + u32(order[i])]));
    var low = begin;  // how far the other run is passed is in low ... high
    var high = select(middle, min(middle + p.length, p.C), left);
    while (low < high) {
        let place = (low + high) / 2u;
        let other = key(vecT(x[base + u32(order[base + place])]));
        if (other > own || (other == own && !left)) { low = place + 1u; } else { high = place; }
    }
    merged[base + select(at - p.length, at, left) + low - begin] = order[i];
}
