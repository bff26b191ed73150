// Alone, or (clip_adamw) with scale_by_norm of the gradient before it, which is written back.
{% set clips = spec.kernel.name == "clip_adamw" %}
@compute @workgroup_size(BLOCK)
fn {{ spec.kernel.name }}(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) nwg: vec3u,
         @builtin(local_invocation_index) t: u32) {
    let lr = hyper[0];
    let beta1 = hyper[1];
    let rest1 = hyper[2];
    let beta2 = hyper[3];
    let rest2 = hyper[4];
    let eps = hyper[5];
    let decay = hyper[6];
    let step = lr * hyper[7];
    let root = sqrt(hyper[8]);
    let skips = scale[0] == 0.0;
{% if clips %}
    let factor = p.max_norm / (norm[0] + 1e-6);
    let keeps = factor >= 1.0;
    if (skips && keeps) { return; }
{% else %}
    if (skips) { return; }
{% endif %}
    let first = (wid.x + wid.y * nwg.x) * 4u * BLOCK + t;
    for (var k = 0u; k < 4u; k++) {
        let i = first + k * BLOCK;
        if (i >= p.N / W) { return; }
        var x = vecf(param[i]);
        var g = vecf(grad[i]);
{% if clips %}
        if (!keeps) {
            g *= factor;
            grad[i] = vecF(g);
        }
        if (skips) { continue; }
{% endif %}
        g *= scale[0];
{% if decoupled %}
        x *= 1.0 - lr * decay;
{% else %}
        g += decay * x;
{% endif %}
        let mean = beta1 * m[i] + rest1 * g;
        let square = beta2 * v[i] + rest2 * g * g;
        m[i] = mean;
        v[i] = square;
        param[i] = vecF(x - step * mean / (sqrt(square) * root + eps));
    }
}
