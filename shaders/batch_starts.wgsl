{% include "lib/philox64.wgsl" %}

@compute @workgroup_size(BLOCK)
fn batch_starts(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) nwg: vec3u,
    @builtin(local_invocation_index) t: u32) {
    let g = wid.x + wid.y * nwg.x;
    if (g >= p.groups) { return; }
    let key = vec4u(state[0], state[1], state[2], state[3]);
    let number = vec2u(state[4], state[5]);
    storageBarrier();  // all have read the state
    if (t == 0u) {
        let after = sum64(number, vec2u(1u, 0u));
        state[4] = after.x;
        state[5] = after.y;
    }
    for (var c = t; c < (p.B + 3u) / 4u; c += BLOCK) {
        let words = philox64(Words64(vec4u(c + 1u, 0u, 0u, number.x), vec4u(0u, 0u, 0u, number.y)), key).high;
        let places = vec2u(p.places);
        let drawn = vec4i(vec4u(high_products(words.xy, places), high_products(words.zw, places)));
{% for j in range(4) %}
        if (4u * c + {{ j }}u < p.B) { starts[4u * c + {{ j }}u] = drawn[{{ j }}]; }
{% endfor %}
    }
}
