// Of the k that share an index the first adds the values of all, in order.

@compute @workgroup_size(BLOCK)
fn scatter_add_forward(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) nwg: vec3u,
                       @builtin(local_invocation_index) t: u32) {
    let g = wid.x + wid.y * nwg.x;
    if (g >= p.groups) { return; }
    let i = g * BLOCK + t;
    if (i >= p.A * p.K * p.B) { return; }
    let at = u32(index[i]);
    if (at >= p.D) { return; }
    let slice = p.K * p.B;
    let a = i / slice;
    var total = f32(values[i]);
{% if not unique %}
    for (var j = a * slice + i % p.B; j < i; j += p.B) {
        if (u32(index[j]) == at) { return; }
    }
    for (var j = i + p.B; j < (a + 1u) * slice; j += p.B) {
        if (u32(index[j]) == at) { total += f32(values[j]); }
    }
{% endif %}
    let place = (a * p.D + at) * p.B + i % p.B;
    x[place] = F(f32(x[place]) + total);
}
