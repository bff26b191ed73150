{% include "lib/philox.wgsl" %}

@compute @workgroup_size(BLOCK)
fn uniform_forward(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) nwg: vec3u,
    @builtin(local_invocation_index) t: u32) {
    let g = wid.x + wid.y * nwg.x;
    if (g >= p.groups) { return; }
    let c = g * BLOCK + t;
    if (c * 4u >= p.N) { return; }
    let words = random_words(c);
    let whole = vec4i(words >> vec4u(p.shift)) - vec4i(1i << (31u - p.shift));
    let value = vec4f(whole) * p.scale + p.middle;
{% if W == 4 %}
    out[c] = vecF(value);
{% else %}
{% for j in range(4) %}
    if (4u * c + {{ j }}u < p.N) { out[4u * c + {{ j }}u] = F(value[{{ j }}]); }
{% endfor %}
{% endif %}
}
