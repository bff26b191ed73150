const SLICE = 16u;
var<workgroup> a_slice: array<vec4f, 16u * SLICE>;  // [k][row / 4]
var<workgroup> b_slice: array<vec4f, 16u * SLICE>;  // [k][column / 4]
{% set z, batched = "", spec.kernel.name == "matmul" %}
{% include "lib/matmul_block.wgsl" %}

@compute @workgroup_size(BLOCK)
fn {{ spec.kernel.name }}(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) nwg: vec3u,
          @builtin(local_invocation_index) t: u32) {
    let g = wid.x + wid.y * nwg.x;
    if (g < p.groups) { product(g, t); }
}
