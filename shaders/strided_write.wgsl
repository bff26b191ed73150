{% include "lib/strides.wgsl" %}
{% set many = 4 if BLOCK < 256 and n5 % 4 == 0 else 1 %}
// The opposite of strided_copy: the coordinates say where an element is written.

@compute @workgroup_size(BLOCK)
fn strided_write(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) nwg: vec3u,
                 @builtin(local_invocation_index) t: u32) {
    let g = wid.x + wid.y * nwg.x;
    if (g >= p.groups) { return; }
    for (var u = t * {{ many }}u; u < 256u; u += BLOCK * {{ many }}u) {
        let i = g * 256u + u;
        if (i < p.K) {
            let at = strided_offset(i, p.start, p.s5);
{% for j in range(many) %}
            out[at + {{ j }}u * u32(p.s5)] = x[i + {{ j }}u];
{% endfor %}
        }
    }
}
