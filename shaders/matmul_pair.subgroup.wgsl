{% set batched, broadcast, has_bias = false, true, false %}
{% for z, ta, tb, ROWS in (("", ta, tb, ROWS), ("2", ta2, tb2, ROWS2)) %}
{% include "lib/matmul_tile.wgsl" %}
{% endfor %}
@compute @workgroup_size(BLOCK)
fn matmul_pair(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) nwg: vec3u,
               @builtin(subgroup_invocation_id) lane: u32) {
    let g = wid.x + wid.y * nwg.x;
    let first = (p.M + ROWS - 1u) / ROWS * ((p.N + {{ BLOCK * COLS * 4 - 1 }}u) / {{ BLOCK * COLS * 4 }}u);
    if (g >= p.groups) { return; }
    // Drivers give each core a stretch of workgroups, so both products are spread evenly over all.
    let even = p.groups < 65536u;
    let before = select(min(g, first), g * first / p.groups, even);
    let next = select(min(g + 1u, first), (g + 1u) * first / p.groups, even);
    if (next > before) {
        product(before, lane);
    } else {
        product2(g - before, lane);
    }
}
