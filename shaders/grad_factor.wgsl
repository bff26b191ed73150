// One workgroup adds up the squares, where they are given, as grad_norm_total does; one invocation does the rest.
// Infinity and NaN are told by their bits: comparisons may assume that there are none.
{% if squares %}
{% include "lib/reduce.wgsl" %}
{% endif %}

@compute @workgroup_size(BLOCK)
fn grad_factor(@builtin(local_invocation_index) t: u32) {
{% if squares %}
    var all = vecf(0.0);
    for (var i = t; i < p.M / W; i += BLOCK) { all += vecf(given[i]); }
    let norm = sqrt(block_sum(vec_sum(all), t));
{% else %}
    let norm = f32(given[0]);
{% endif %}
    if (t != 0u) { return; }
    let scale = state[0];
    let n = norm / scale;
    total[0] = F(n);
    factor[0] = 0.0;
    if (state[3] != 0.0) { return; }
    if ((bitcast<u32>(norm) & 0x7f800000u) == 0x7f800000u) {
        state[3] = select(0.0, 1.0, scale <= p.floor);
        state[0] = max(0.5 * scale, p.floor);
        state[1] = 0.0;
        state[2] += 1.0;
        return;
    }
    factor[0] = select(1.0, min(1.0, p.max_norm / (n + 1e-6)), p.max_norm > 0.0) / scale;
    state[1] += 1.0;
    if (p.growth > 0.0 && state[1] >= p.growth) {
        state[0] = min(2.0 * scale, 16777216.0);
        state[1] = 0.0;
    }
}
