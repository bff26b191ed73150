{% include "lib/philox.wgsl" %}

@compute @workgroup_size(BLOCK)
fn bernoulli_forward(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) nwg: vec3u,
    @builtin(local_invocation_index) t: u32) {
    let g = wid.x + wid.y * nwg.x;
    if (g >= p.groups) { return; }
    let c = g * BLOCK + t;
    if (c * 4u >= p.N) { return; }
    let words = random_words(c);
{% if W == 4 %}
    let value = vec4f(x[c]);
{% else %}
    var value = vec4f(0.0f);
{% for j in range(4) %}
    if (4u * c + {{ j }}u < p.N) { value[{{ j }}] = f32(x[4u * c + {{ j }}u]); }
{% endfor %}
{% endif %}
    let made = select(vec4f(0.0f), vec4f(1.0f), vec4f(words >> vec4u(8u)) * 5.9604645e-8f < value);
{% if W == 4 %}
    out[c] = vecF(made);
{% else %}
{% for j in range(4) %}
    if (4u * c + {{ j }}u < p.N) { out[4u * c + {{ j }}u] = F(made[{{ j }}]); }
{% endfor %}
{% endif %}
}
