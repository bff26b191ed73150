// One invocation's work. Infinity and NaN are told by their bits: comparisons may assume that there are none.
@compute @workgroup_size(BLOCK)
fn grad_factor(@builtin(local_invocation_index) t: u32) {
    if (t != 0u) { return; }
    let scale = state[0];
    let given = f32(norm[0]);
    let n = given / scale;
    total[0] = F(n);
    factor[0] = 0.0;
    if (state[3] != 0.0) { return; }
    if ((bitcast<u32>(given) & 0x7f800000u) == 0x7f800000u) {
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
