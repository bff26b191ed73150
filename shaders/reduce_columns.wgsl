// L columns side by side in a workgroup; the BLOCK / L invocations of a column share its rows.
{% import "lib/fold.wgsl" as fold with context %}
{{ fold }}
{% set scaled = "scale" in spec.kernel.signature and fold.T == "f32" %}
var<workgroup> parts: array<vecT, BLOCK>;

@compute @workgroup_size(BLOCK)
fn {{ spec.kernel.name }}(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) nwg: vec3u,
                          @builtin(local_invocation_index) t: u32) {
    let g = wid.x + wid.y * nwg.x;
    if (g >= p.groups) { return; }
    let lanes = min(p.L, BLOCK);
    let width = p.I / W;
    let column = g / p.S * lanes + t % lanes;
    let s = g % p.S;
    let least = p.K / p.S;
    let more = p.K % p.S;
    let begin = s * least + min(s, more);
    let end = begin + least + select(0u, 1u, s < more);
    let n = column / width;
    let base = n * p.K * width + column % width;
    let inside = n < p.N;
    let step = BLOCK / lanes;
    var acc = {{ fold.start }};
    if (inside) {
{% if fold.first %}
        acc = vecT(x[base + begin * width]);
{% endif %}
        for (var k = begin + t / lanes; k < end; k += step) {
            acc = vec_join(acc, value(x[base + k * width]{{ ", y[column]" if value == "tie" }}));
        }
    }
    for (var d = BLOCK / 2u; d >= lanes; d >>= 1u) {
        parts[t] = acc;
        workgroupBarrier();
        if (t < d) { acc = vec_join(acc, parts[t + d]); }
        workgroupBarrier();
    }
    if (t < lanes && inside) {
        out[(n * p.S + s) * width + column % width] = vecA(acc{{ " * p.scale" if scaled }});
    }
}
