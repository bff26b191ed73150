{% include "lib/strides.wgsl" %}
// Single elements from anywhere; W neighbours of out share one split into coordinates and one store.

@compute @workgroup_size(BLOCK)
fn strided_gather(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) nwg: vec3u,
                  @builtin(local_invocation_index) t: u32) {
    let g = wid.x + wid.y * nwg.x;
    if (g >= p.groups) { return; }
    let total = p.n0 * (n1 * n2 * n3 * n4 * n5 / W);
    for (var u = t; u < 256u; u += BLOCK) {
        let i = g * 256u + u;
        if (i < total) {
            let at = strided_offset(i * W, p.start, s5);
{% if W == 4 and s5 == 0 %}
            out[i] = vecF(x[at]);
{% elif W == 4 %}
            let s = u32(s5);
            out[i] = vecF(x[at], x[at + s], x[at + 2u * s], x[at + 3u * s]);
{% else %}
            out[i] = x[at];
{% endif %}
        }
    }
}
