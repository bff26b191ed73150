{% set z, batched, broadcast = "", true, true %}
{% include "lib/matmul_tile.wgsl" %}
@compute @workgroup_size(BLOCK)
fn {{ spec.kernel.name }}(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) nwg: vec3u,
          @builtin(subgroup_invocation_id) lane: u32) {
    let g = wid.x + wid.y * nwg.x;
    if (g < p.groups) { product(g, lane); }
}
