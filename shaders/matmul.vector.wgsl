// At most ROWS rows of a times the rows of b, for CPU drivers: a workgroup is one subgroup, a lane has one row of b.
// The lanes load a together, four elements each, and hand each other theirs.
@compute @workgroup_size(BLOCK)
fn {{ spec.kernel.name }}(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) nwg: vec3u,
          @builtin(subgroup_invocation_id) lane: u32) {
    let g = wid.x + wid.y * nwg.x;
    if (g >= p.groups) { return; }
    let across = (p.N + BLOCK - 1u) / BLOCK;
    let batch = g / across;
    let col = g % across * BLOCK + lane;
    let length = p.K / 4u;
    let at_a = select(batch, 0u, p.BA == 1u) * p.M * length;
    let at_b = (select(batch, 0u, p.BB == 1u) * p.N + col) * length;
{% for i in range(ROWS) %}
    var s{{ i }} = vec4f();
{% endfor %}
    var k = 0u;
    for (; k + BLOCK <= length; k += BLOCK) {
{% for i in range(ROWS) %}
        let a{{ i }} = vec4f(a[at_a + {{ i }}u * length + k + lane]);
{% endfor %}
{% for l in range(BLOCK) %}
        let b{{ l }} = vec4f(b[at_b + k + {{ l }}u]);
{% for i in range(ROWS) %}
        s{{ i }} += subgroupBroadcast(a{{ i }}, {{ l }}u) * b{{ l }};
{% endfor %}
{% endfor %}
    }
    for (; k < length; k += 1u) {
        let v = vec4f(b[at_b + k]);
{% for i in range(ROWS) %}
        s{{ i }} += vec4f(a[at_a + {{ i }}u * length + k]) * v;
{% endfor %}
    }
    let first = col - lane;
{% for i in range(ROWS) %}
    if ({{ i }}u < p.M) {
        let v = dot(s{{ i }}, vec4f(1.0)) + {{ "f32(bias[col])" if has_bias else "0.0" }};
        let at = (batch * p.M + {{ i }}u) * p.N + first;
{% if "N" in vectors %}
{% for q in range(BLOCK // 4) %}
        let v{{ q }} = vec4f({% for e in range(4) %}subgroupBroadcast(v, {{ 4 * q + e }}u){{ ", " if e < 3 }}{% endfor %});
        if (lane == {{ q }}u && first + {{ 4 * q }}u < p.N) { out[at / 4u + lane] = vec4<F>(v{{ q }}); }
{% endfor %}
{% else %}
        if (col < p.N) { out[at + lane] = F(v); }
{% endif %}
    }
{% endfor %}
}
