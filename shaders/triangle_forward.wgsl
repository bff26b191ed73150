@compute @workgroup_size(BLOCK)
fn triangle_forward(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) nwg: vec3u,
                    @builtin(local_invocation_index) t: u32) {
    let g = wid.x + wid.y * nwg.x;
    if (g >= p.groups) { return; }
    const n = max(N / W, 1u);  // nothing is launched where N is 0, but compiled
    let i = g * BLOCK + t;
    let row = i / n;
    if (row >= p.R * M) { return; }
    let column = i32(i % n * W);
    let edge = i32(row % max(M, 1u)) + p.diagonal;
{% set order = ">=" if upper else "<=" %}
{% if W == 4 %}
    let kept = vec4i(column, column + 1, column + 2, column + 3) {{ order }} vec4i(edge);
{% else %}
    let kept = column {{ order }} edge;
{% endif %}
    out[i] = select(vecF(0), x[i], kept);
}
