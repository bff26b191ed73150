{% include "lib/reduce.wgsl" %}
// One workgroup for all partial sums.

@compute @workgroup_size(BLOCK)
fn grad_norm_total(@builtin(local_invocation_index) t: u32) {
    var total = vecf(0.0);
    for (var i = t; i < p.M / W; i += BLOCK) { total += vecf(partial[i]); }
    let sum = block_sum(vec_sum(total), t);
    if (t == 0u) { norm[0] = F(sqrt(sum)); }
}
