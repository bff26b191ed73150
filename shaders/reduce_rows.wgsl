// A workgroup per piece of a row. Max and min start from the piece's first element: infinity cannot be written in WGSL.
{% import "lib/fold.wgsl" as fold with context %}
{{ fold }}
{% set scaled = "scale" in spec.kernel.signature and fold.T == "f32" %}
var<workgroup> parts: array<T, BLOCK>;

@compute @workgroup_size(BLOCK)
fn {{ spec.kernel.name }}(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) nwg: vec3u,
                          @builtin(local_invocation_index) t: u32) {
    let g = wid.x + wid.y * nwg.x;
    if (g >= p.groups) { return; }
    let row = g / p.S;
    let s = g % p.S;
    let n = p.K / W;
    let least = n / p.S;
    let more = n % p.S;
    let begin = row * n + s * least + min(s, more);
    let end = begin + least + select(0u, 1u, s < more);
{% if value == "tie" %}
    let centre = vecF(y[row]);
{% endif %}
    var acc = {{ fold.begin_at("x[begin]") }};
    for (var c = begin + t; c < end; c += BLOCK) {
        acc = vec_join(acc, value(x[c]{{ ", centre" if value == "tie" }}));
    }
{% if W == 4 %}
    parts[t] = join(join(acc.x, acc.y), join(acc.z, acc.w));
{% else %}
    parts[t] = acc;
{% endif %}
    workgroupBarrier();
    for (var d = BLOCK / 2u; d > 0u; d >>= 1u) {
        if (t < d) { parts[t] = join(parts[t], parts[t + d]); }
        workgroupBarrier();
    }
    if (t == 0u) { out[g] = A(parts[0]{{ " * p.scale" if scaled }}); }
}
