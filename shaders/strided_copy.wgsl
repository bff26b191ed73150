{% include "lib/strides.wgsl" %}
{% set many = 4 if BLOCK < 256 and n5 % 4 == 0 else 1 %}
// A workgroup moves 256 elements (or groups of four). CPU drivers split a place into coordinates once for four of them.

@compute @workgroup_size(BLOCK)
fn strided_copy(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) nwg: vec3u,
                @builtin(local_invocation_index) t: u32) {
    let g = wid.x + wid.y * nwg.x;
    if (g >= p.groups) { return; }
    let total = p.n0 * (n1 * n2 * n3 * n4 * n5);
    for (var u = t * {{ many }}u; u < 256u; u += BLOCK * {{ many }}u) {
        let i = g * 256u + u;
        if (i < total) {
            let at = strided_offset(i, p.start, p.s5);
{% for j in range(many) %}
            out[i + {{ j }}u] = x[at + {{ j }}u * u32(p.s5)];
{% endfor %}
        }
    }
}
