// A workgroup per piece of a row; what the whole row shares is read once.
{% set shared = names | reject("equalto", "x") | list %}

fn rule({% for name in names %}{{ name }}: vecf{{ ", " if not loop.last }}{% endfor %}) -> vecf {
    const zero = vecf(0.0);
    const one = vecf(1.0);
    return {{ rule }};
}

@compute @workgroup_size(BLOCK)
fn {{ spec.kernel.name }}(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) nwg: vec3u,
                          @builtin(local_invocation_index) t: u32) {
    let g = wid.x + wid.y * nwg.x;
    if (g >= p.groups) { return; }
    let row = g / p.S;
    let s = g % p.S;
    let n = p.K / W;
    let least = n / p.S;
    let more = n % p.S;
    let begin = row * n + s * least + min(s, more);
    let end = begin + least + select(0u, 1u, s < more);
{% for name in shared %}
    let row_{{ name }} = vecf(f32({{ name }}[row]));
{% endfor %}
    for (var c = begin + t; c < end; c += BLOCK) {
        dx[c] = vecF(rule(
{% for name in names %}
            {{ "vecf(x[c])" if name == "x" else "row_" ~ name }}{{ "," if not loop.last }}
{% endfor %}
        ));
    }
}
