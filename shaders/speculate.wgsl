{% include "lib/math.wgsl" %}
{% include "lib/philox.wgsl" %}
// One workgroup. Each invocation sums a segment of what the next token is drawn from; one finds its place.
var<workgroup> rests: array<f32, BLOCK>;
var<workgroup> wholes: array<f32, BLOCK>;

fn chance(i: u32) -> f32 { return f32(random_words(i / 4u)[i % 4u] >> 8u) * 0x1p-24f; }

@compute @workgroup_size(BLOCK)
fn speculate(@builtin(local_invocation_index) t: u32) {
    var taken = 0u;
    for (; taken < p.Q; taken++) {
        let at = taken * p.V + u32(tokens[taken]);
        if (tokens[taken] < 0 || is_nan(full[at]) || chance(taken) * draft[at] >= full[at]) { break; }
    }
    let row = taken * p.V;
    let size = (p.V + BLOCK - 1u) / BLOCK;
    var rest = 0.0;
    var whole = 0.0;
    for (var i = row + t * size; i < row + min((t + 1u) * size, p.V); i++) {
        if (taken < p.Q) { rest += max(full[i] - draft[i], 0.0); }
        whole += full[i];
    }
    rests[t] = rest;
    wholes[t] = whole;
    workgroupBarrier();
    if (t > 0u) { return; }
    var total = 0.0;
    for (var s = 0u; s < BLOCK; s++) { total += rests[s]; }
    let all = total == 0.0;  // drawn from p, not from what p has more than q
    if (all) {
        for (var s = 0u; s < BLOCK; s++) { total += wholes[s]; }
    }
    var goal = chance(p.Q) * total;
    var segment = 0u;
    for (var s = 0u; s < BLOCK; s++) {
        let mass = select(rests[s], wholes[s], all);
        if (mass > 0.0) {
            segment = s;
            if (goal < mass) { break; }
            goal -= mass;
        }
    }
    var found = 0u;
    for (var v = segment * size; v < min((segment + 1u) * size, p.V); v++) {
        var mass = full[row + v];
        if (!all) { mass = max(mass - draft[row + v], 0.0); }
        if (mass > 0.0) {
            found = v;
            if (goal < mass) { break; }
            goal -= mass;
        }
    }
    let usable = !is_nan(full[row]) && (taken == p.Q || tokens[min(taken, p.Q - 1u)] >= 0);
    out[0] = select(-1, i32(found), usable);
    out[1] = i32(taken);
    for (var i = 0u; i < p.Q; i++) { out[2u + i] = tokens[i]; }
    lengths[0] -= i32(p.Q - taken);
    draft_lengths[0] -= i32(p.Q - taken);
}
