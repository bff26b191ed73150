// A workgroup belongs to one job; the BLOCK / lanes invocations of a column share its rows, as in reduce_columns.
var<workgroup> parts: array<vec4f, BLOCK>;

@compute @workgroup_size(BLOCK)
fn sum_jobs(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) nwg: vec3u,
            @builtin(local_invocation_index) t: u32) {
    let g = wid.x + wid.y * nwg.x;
    if (g >= p.groups) { return; }
    var job = 0u;
    while (job + 1u < J && jobs[(job + 1u) * 9u] <= g) { job++; }
    let at = job * 9u;
    let source = jobs[at + 1u];
    let rows = jobs[at + 3u];
    let width = jobs[at + 4u];
    let lanes = min(jobs[at + 6u], BLOCK);
    let pieces = jobs[at + 7u];
    let local = g - jobs[at];
    let column = local / pieces * lanes + t % lanes;
    let s = local % pieces;
    let least = rows / pieces;
    let more = rows % pieces;
    let begin = s * least + min(s, more);
    let end = begin + least + select(0u, 1u, s < more);
    var acc = vec4f(0.0);
    if (column < width) {
        let stride = jobs[at + 5u];
        let first = jobs[at + 2u] + column + (begin + t / lanes) * stride;
        let stop = jobs[at + 2u] + column + end * stride;
        let step = BLOCK / lanes * stride;
        switch source {  // around the loop: CPU drivers pay for a branch as for ten additions
{% for k in range(6) %}
            {{ "case %du" % k if k < 5 else "default" }}: {
                for (var i = first; i < stop; i += step) { acc += vec4f(x{{ k }}[i]); }
            }
{% endfor %}
        }
    }
    for (var d = BLOCK / 2u; d >= lanes; d >>= 1u) {
        parts[t] = acc;
        workgroupBarrier();
        if (t < d) { acc += parts[t + d]; }
        workgroupBarrier();
    }
    if (t < lanes && column < width) { out[jobs[at + 8u] + s * width + column] = vec4<A>(acc); }
}
