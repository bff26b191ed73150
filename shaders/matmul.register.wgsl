{% set z, batched, broadcast = "", true, false %}
{% include "lib/matmul_tile.wgsl" %}
@compute @workgroup_size(BLOCK)
fn {{ spec.kernel.name }}(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) nwg: vec3u,
          @builtin(local_invocation_index) lane: u32) {
    let g = wid.x + wid.y * nwg.x;
    if (g < p.groups) { product(g, lane); }
}
