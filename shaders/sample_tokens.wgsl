{% include "lib/philox.wgsl" %}
{% include "lib/sampling.wgsl" %}
// One workgroup per row. The row is cut into segments, whose masses are summed into the bins: the number drawn picks a
// segment, and in it a token.

@compute @workgroup_size(BLOCK)
fn sample_tokens(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) nwg: vec3u,
                 @builtin(local_invocation_index) t: u32) {
    let row = wid.x + wid.y * nwg.x;
    if (row >= p.groups) { return; }
    let base = row * n;
    let usable = filter_row(base, t);
    const size = (n + BINS - 1u) / BINS;
    for (var s = t; s < BINS; s += BLOCK) {
        var sum = vecu(0u);
        for (var c = s * size; c < min((s + 1u) * size, n); c++) { sum += mass(logit(base + c)); }
        atomicStore(&bins[s], vec_total(sum));
    }
    let total = settle(t);
    var goal = 0u;  // temperature 0: the first of those that are kept
    if (settings[0] > 0.0f) { goal = high_products(vec2u(random_words(row / 4u)[row % 4u]), vec2u(total)).x; }
    let segment = find(goal, t);
    if (t > 0u) { return; }
    var rest = segment.y;
    var at = -1;
    for (var c = segment.x * size; c < n && at < 0; c++) {
        let m = mass(logit(base + c));
{% for lane in (("[0]", "[1]", "[2]", "[3]") if W == 4 else ("",)) %}
        if (at < 0) {
            if (rest < m{{ lane }}) { at = i32(c * W + {{ loop.index0 }}u); } else { rest -= m{{ lane }}; }
        }
{% endfor %}
    }
    if (!usable || at < 0) {
        token[row] = -1;
        return;
    }
    token[row] = at;
    let i = u32(at);
    seen[base + i / W]{{ "[i % W]" if W == 4 }} = 1u;
}
