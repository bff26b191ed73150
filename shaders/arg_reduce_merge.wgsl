// A workgroup per row joins its pieces; of equals the first in the row wins, and NaN beats all.
{% set T = {"f": "f32"}.get(spec.dtype(spec.kernel.inputs[0]).kind, spec.dtype(spec.kernel.inputs[0]).wgsl) %}
alias T = {{ T }};
var<workgroup> tops: array<T, BLOCK>;
var<workgroup> places: array<i32, BLOCK>;

alias vecT = T;
{% include "lib/nan.wgsl" %}
fn beats(a: T, i: i32, b: T, j: i32) -> bool {
    if (nan(a) || nan(b)) { return nan(a) && (!nan(b) || i < j); }
    return a {{ sign }} b || (a == b && i < j);
}

@compute @workgroup_size(BLOCK)
fn {{ spec.kernel.name }}(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) nwg: vec3u,
                          @builtin(local_invocation_index) t: u32) {
    let row = wid.x + wid.y * nwg.x;
    if (row >= p.groups) { return; }
    let base = row * p.S;
    var best = T(x[base]);
    var place = at[base];
    for (var s = t; s < p.S; s += BLOCK) {
        let v = T(x[base + s]);
        if (beats(v, at[base + s], best, place)) {
            best = v;
            place = at[base + s];
        }
    }
    tops[t] = best;
    places[t] = place;
    workgroupBarrier();
    for (var d = BLOCK / 2u; d > 0u; d >>= 1u) {
        if (t < d && beats(tops[t + d], places[t + d], tops[t], places[t])) {
            tops[t] = tops[t + d];
            places[t] = places[t + d];
        }
        workgroupBarrier();
    }
    if (t == 0u) { out[row] = places[0]; }
}
