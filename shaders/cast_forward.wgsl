{% set types = dict(spec.types) %}
{% set from_float = types["X"].kind == "f" %}
{% set to = types["Y"] %}

@compute @workgroup_size(BLOCK)
fn cast_forward(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) nwg: vec3u,
                @builtin(local_invocation_index) t: u32) {
    let g = wid.x + wid.y * nwg.x;
    if (g >= p.groups) { return; }
    let i = g * BLOCK + t;
    if (i >= p.N / W) { return; }
{% if to.kind == "b" %}
    out[i] = select(vecY(0), vecY(1), x[i] != vecX(0));
{% elif from_float and to.kind == "i" %}
    out[i] = vecY(clamp(vecf(x[i]), vecf(p.low), vecf(p.high)));
{% elif from_float or to.kind == "f" %}
    out[i] = vecY(vecf(x[i]));
{% else %}
    out[i] = vecY(x[i]);
{% endif %}
}
