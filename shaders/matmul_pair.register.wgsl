{% set batched, broadcast, has_bias = false, false, false %}
{% for z, ta, tb, ROWS in (("", ta, tb, ROWS), ("2", ta2, tb2, ROWS2)) %}
{% include "lib/matmul_tile.wgsl" %}
{% endfor %}
@compute @workgroup_size(BLOCK)
fn matmul_pair(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) nwg: vec3u,
               @builtin(local_invocation_index) lane: u32) {
    let g = wid.x + wid.y * nwg.x;
    let first = (p.M + ROWS - 1u) / ROWS * ((p.N + {{ BLOCK * COLS * 4 - 1 }}u) / {{ BLOCK * COLS * 4 }}u);
    if (g < first) {
        product(g, lane);
    } else if (g < p.groups) {
        product2(g - first, lane);
    }
}
