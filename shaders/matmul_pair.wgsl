const SLICE = 16u;
var<workgroup> a_slice: array<vec4f, 16u * SLICE>;  // [k][row / 4]
var<workgroup> b_slice: array<vec4f, 16u * SLICE>;  // [k][column / 4]
{% set batched, has_bias = false, false %}
{% for z, ta, tb in (("", ta, tb), ("2", ta2, tb2)) %}
{% include "lib/matmul_block.wgsl" %}
{% endfor %}

@compute @workgroup_size(BLOCK)
fn matmul_pair(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) nwg: vec3u,
               @builtin(local_invocation_index) t: u32) {
    let g = wid.x + wid.y * nwg.x;
    let first = (p.M + 63u) / 64u * ((p.N + 63u) / 64u);
    if (g < first) {
        product(g, t);
    } else if (g < p.groups) {
        product2(g - first, t);
    }
}
