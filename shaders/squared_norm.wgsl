{% include "lib/reduce.wgsl" %}
// Each workgroup has neighbouring vectors of one array.

@compute @workgroup_size(BLOCK)
fn squared_norm(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) nwg: vec3u,
                @builtin(local_invocation_index) t: u32) {
    let g = wid.x + wid.y * nwg.x;
    if (g >= p.groups) { return; }
    var total = vecf(0.0);
{% for k in range(4) %}
{% set begin = "p.S%d" % k if k else "0u" %}
{% set stop = "p.S%d" % (k + 1) if k < 3 else "p.S" %}
    if (g >= {{ begin }} && g < {{ stop }}) {
        let n = p.N{{ k }} / W;
        let pieces = {{ stop }} - {{ begin }};
        let size = (n + pieces - 1u) / pieces;
        let first = (g - {{ begin }}) * size;
        for (var i = first + t; i < min(n, first + size); i += BLOCK) {
            let v = vecf(x{{ k }}[i]);
            total += v * v;
        }
    }
{% endfor %}
    let sum = block_sum(vec_sum(total), t);
    if (t == 0u) { partial[g] = sum; }
}
