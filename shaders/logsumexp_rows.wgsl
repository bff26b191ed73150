{% include "lib/softmax.wgsl" %}
// A workgroup per piece of a row, in one pass: each invocation rescales its sum when it meets a larger element. What is
// subtracted stays finite, so that an infinite element makes the sum infinite, and NaN only a NaN.
fn meet_finite(v: vecf, top: ptr<function, f32>, sum: ptr<function, f32>) {
    let higher = min(max(*top, vec_max(v)), -LOWEST);
    *sum = *sum * exp(*top - higher) + vec_sum(exp(v - higher));
    *top = higher;
}

@compute @workgroup_size(BLOCK)
fn logsumexp_rows(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) nwg: vec3u,
                  @builtin(local_invocation_index) t: u32) {
    let g = wid.x + wid.y * nwg.x;
    if (g >= p.groups) { return; }
    let row = g / p.S;
    let s = g % p.S;
    let n = p.K / W;
    let more = n % p.S;
    let begin = row * n + s * (n / p.S) + min(s, more);
    let end = begin + n / p.S + select(0u, 1u, s < more);
    var top = LOWEST;
    var sum = 0.0;
    for (var c = begin + t; c < end; c += BLOCK) { meet_finite(vecf(x[c]), &top, &sum); }
    let m = block_max(top, t);
    let l = m + log(block_sum(sum * exp(top - m), t));
    if (t == 0u) {
        lse[g] = l;
        out[g] = A(l);
    }
}
