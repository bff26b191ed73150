{% include "lib/philox.wgsl" %}

@compute @workgroup_size(BLOCK)
fn multinomial_draw(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) nwg: vec3u,
                    @builtin(local_invocation_index) t: u32) {
    let g = wid.x + wid.y * nwg.x;
    if (g >= p.groups) { return; }
    let i = g * BLOCK + t;
    if (i >= p.R * p.S) { return; }
    let base = i / p.S * p.C;
    if (p.C == 0u || running[base + p.C - 1u] <= 0) {
        out[i] = -1;
        return;
    }
    let goal = i32(high_products(vec2u(random_words(i / 4u)[i % 4u]), vec2u(u32(running[base + p.C - 1u]))).x);
    var low = 0u;  // the first running sum above goal is in low ... high
    var high = p.C - 1u;
    while (low < high) {
        let middle = (low + high) / 2u;
        if (running[base + middle] > goal) { high = middle; } else { low = middle + 1u; }
    }
    out[i] = i32(low);
}
