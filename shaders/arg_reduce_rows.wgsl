// A workgroup per piece of a row. All start from the piece's first element, and of equals the first in the row wins;
// NaN beats all, as in PyTorch.
{% set T = {"f": "f32"}.get(spec.dtype(spec.kernel.inputs[0]).kind, spec.dtype(spec.kernel.inputs[0]).wgsl) %}
alias T = {{ T }};
alias vecT = {{ "vec4<T>" if W == 4 else "T" }};
alias vecu = {{ "vec4<u32>" if W == 4 else "u32" }};
var<workgroup> tops: array<T, BLOCK>;
var<workgroup> places: array<u32, BLOCK>;

{% include "lib/nan.wgsl" %}
fn beats(a: T, i: u32, b: T, j: u32) -> bool {
    if (nan(a) || nan(b)) { return nan(a) && (!nan(b) || i < j); }
    return a {{ sign }} b || (a == b && i < j);
}

@compute @workgroup_size(BLOCK)
fn {{ spec.kernel.name }}(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) nwg: vec3u,
                          @builtin(local_invocation_index) t: u32) {
    let g = wid.x + wid.y * nwg.x;
    if (g >= p.groups) { return; }
    let s = g % p.S;
    let n = p.K / W;
    let more = n % p.S;
    let base = g / p.S * n;
    let begin = s * (n / p.S) + min(s, more);
    let end = begin + n / p.S + select(0u, 1u, s < more);
    var best = vecT(x[base + begin]);
    var at = vecu(begin);
    for (var c = begin + t; c < end; c += BLOCK) {
        let v = vecT(x[base + c]);
        let better = ((v {{ sign }} best) | vec_nan(v)) & !vec_nan(best);
        best = select(best, v, better);
        at = select(at, vecu(c), better);
    }
{% if W == 4 %}
    tops[t] = best.x;
    places[t] = at.x * 4u;
{% for lane in (1, 2, 3) %}
    if (beats(best[{{ lane }}], at[{{ lane }}] * 4u + {{ lane }}u, tops[t], places[t])) {
        tops[t] = best[{{ lane }}];
        places[t] = at[{{ lane }}] * 4u + {{ lane }}u;
    }
{% endfor %}
{% else %}
    tops[t] = best;
    places[t] = at;
{% endif %}
    workgroupBarrier();
    for (var d = BLOCK / 2u; d > 0u; d >>= 1u) {
        if (t < d && beats(tops[t + d], places[t + d], tops[t], places[t])) {
            tops[t] = tops[t + d];
            places[t] = places[t + d];
        }
        workgroupBarrier();
    }
    if (t == 0u) {
        top[g] = F(tops[0]);
        out[g] = i32(places[0]);
    }
}
