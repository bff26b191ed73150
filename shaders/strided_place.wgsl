{% set sizes = [0, n1, n2, n3, n4, n5] %}
{% set steps = [t0, t1, t2, t3, t4, t5] %}
// Each element of out asks whether x has something for it. A begin after the coordinate wraps around to a place that is
// beyond every count, so one comparison checks both ends.

@compute @workgroup_size(BLOCK)
fn strided_place(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) nwg: vec3u,
                 @builtin(local_invocation_index) t: u32) {
    let g = wid.x + wid.y * nwg.x;
    if (g >= p.groups) { return; }
    let total = p.n0 * (n1 * n2 * n3 * n4 * n5);
    for (var u = t; u < 256u; u += BLOCK) {
        let i = g * 256u + u;
        if (i < total) {
            var rest = i;
            var at = p.start;
            var inside = true;
{% for d in range(5, -1, -1) if d == 0 or sizes[d] > 1 %}
            let q{{ d }} = {{ "rest" if d == 0 else "rest % n" ~ d }} - p.b{{ d }};
{% if steps[d] == 1 %}
            inside = inside && q{{ d }} < p.m{{ d }};
            at += i32(q{{ d }}) * p.s{{ d }};
{% else %}
            inside = inside && q{{ d }} % t{{ d }} == 0u && q{{ d }} / t{{ d }} < p.m{{ d }};
            at += i32(q{{ d }} / t{{ d }}) * p.s{{ d }};
{% endif %}
{% if d > 0 %}
            rest /= n{{ d }};
{% endif %}
{% endfor %}
            if (inside) { out[i] = x[u32(at)]; } else { out[i] = vecF(0); }
        }
    }
}
