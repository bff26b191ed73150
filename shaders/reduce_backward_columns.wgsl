// L columns side by side in a workgroup; what a whole column shares is read once.
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
    let lanes = min(p.L, BLOCK);
    let width = p.I / W;
    let column = g / p.S * lanes + t % lanes;
    let s = g % p.S;
    let least = p.K / p.S;
    let more = p.K % p.S;
    let begin = s * least + min(s, more);
    let end = begin + least + select(0u, 1u, s < more);
    let n = column / width;
    if (n >= p.N) { return; }
    let step = BLOCK / lanes;
    let base = n * p.K * width + column % width;
{% for name in shared %}
    let column_{{ name }} = vecf({{ name }}[column]);
{% endfor %}
    for (var k = begin + t / lanes; k < end; k += step) {
        let c = base + k * width;
        dx[c] = vecF(rule(
{% for name in names %}
            {{ "vecf(x[c])" if name == "x" else "column_" ~ name }}{{ "," if not loop.last }}
{% endfor %}
        ));
    }
}
