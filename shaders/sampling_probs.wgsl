{% include "lib/sampling.wgsl" %}
// One workgroup per row. Temperature 0 gives all to the first of the likeliest tokens.

@compute @workgroup_size(BLOCK)
fn sampling_probs(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) nwg: vec3u,
                  @builtin(local_invocation_index) t: u32) {
    let row = wid.x + wid.y * nwg.x;
    if (row >= p.groups) { return; }
    let base = row * n;
    let usable = filter_row(base, t);
    let places = {{ "vec4<u32>(0u, 1u, 2u, 3u)" if W == 4 else "0u" }};
    var first = 0u;
    if (!(settings[0] > 0.0f)) {
        var ahead = vecu(0u);  // of the end of the row
        for (var c = t; c < n; c += BLOCK) {
            ahead = max(ahead, select(vecu(0u), vecu(V - c * W) - places, weight(logit(base + c)) > vecf(0.0f)));
        }
        first = V - block_top(vec_top(ahead), t);
    }
    var sum = vecf(0.0f);
    for (var c = t; c < n; c += BLOCK) { sum += weight(logit(base + c)); }
    let share = 1.0f / block_sum(vec_sum(sum), t);
    let nan = bitcast<f32>(0x7fc00000u | min(p.groups, 0u));  // not a constant: browsers refuse constant NaNs
    for (var c = t; c < n; c += BLOCK) {
        var value = weight(logit(base + c)) * share;
        if (!(settings[0] > 0.0f)) { value = select(vecf(0.0f), vecf(1.0f), vecu(c * W) + places == vecu(first)); }
        probs[base + c] = select(vecf(nan), value, usable);
    }
}
