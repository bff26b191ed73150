{% include "lib/reduce.wgsl" %}
{% include "lib/cross_entropy.wgsl" %}
// One workgroup per row, whose second reading finds it in a cache. An invocation touches its own elements alone.

@compute @workgroup_size(BLOCK)
fn cross_entropy_in_place(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) nwg: vec3u,
                          @builtin(local_invocation_index) t: u32) {
    let row = wid.x + wid.y * nwg.x;
    if (row >= p.groups) { return; }
    let n = L / W;
    let base = row * n;
    var top = -3.4e38f;
    var sum = 0.0f;
    var plain = vecf(0.0);
    for (var c = t; c < WITH_CLASSES; c += BLOCK) {
        let v = vecf(logits[base + c]);
        let high = vec_max(classes(v, c, -3.4e38f));
        if (high > top) {
            sum *= exp(top - high);
            top = high;
        }
        sum += vec_sum(classes(exp(v - top), c, 0.0f));
        plain += classes(v, c, 0.0f);
    }
    let row_top = block_max(top, t);
    let lse = row_top + log(block_sum(sum * exp(top - row_top), t));
{% if smoothing %}
    let mean = block_sum(vec_sum(plain), t) / f32(V);
{% endif %}
    let label = targets[row];
    let ignored = label == p.ignore_index;
    let is_class = label >= 0 && label < i32(V);
    let at = select(0u, u32(label), is_class);
    let nan = bitcast<f32>(0x7fc00000u | min(p.groups, 0u));  // not a constant: browsers refuse constant NaNs
    if (at / W % BLOCK == t) {
        let nll = lse - f32(logits[base + at / W]{{ "[at % W]" if W > 1 }});
        let value = {{ "nll + smoothing * (lse - mean - nll)" if smoothing else "nll" }};
        loss[row] = select(select(nan, value, is_class), 0.0f, ignored);
    }
    let factor = select(nan, dloss[min(row, p.D - 1u)] * scale[0], is_class);
    for (var c = t; c < n; c += BLOCK) {
        var e = exp(vecf(logits[base + c]) - lse){{ " - smoothing / f32(V)" if smoothing }};
        if (c == at / W) { e{{ "[at % W]" if W > 1 }} -= 1.0f{{ " - smoothing" if smoothing }}; }
        logits[base + c] = select(vecF(classes(e * factor, c, 0.0f)), vecF(0.0), ignored);
    }
}
