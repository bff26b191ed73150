// One workgroup per row, tile by tile; each invocation has ITEMS neighbours of a tile.
{% set T = {"f": "f32"}.get(dict(spec.types)["F"].kind, dict(spec.types)["F"].wgsl) %}
alias T = {{ T }};
const ITEMS = 8u;
var<workgroup> sums: array<T, BLOCK>;

@compute @workgroup_size(BLOCK)
fn cumsum_forward(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) nwg: vec3u,
                  @builtin(local_invocation_index) t: u32) {
    let row = wid.x + wid.y * nwg.x;
    if (row >= p.groups) { return; }
    var before = T(0);
    for (var tile = 0u; tile < p.C; tile += BLOCK * ITEMS) {
        let begin = tile + t * ITEMS;
        let end = min(begin + ITEMS, p.C);
        var sum = T(0);
        for (var i = begin; i < end; i++) { sum += T(x[row * p.C + {{ "p.C - 1u - i" if reverse else "i" }}]); }
        sums[t] = sum;
        workgroupBarrier();
        for (var d = 1u; d < BLOCK; d <<= 1u) {
            var more = T(0);
            if (t >= d) { more = sums[t - d]; }
            workgroupBarrier();
            sums[t] += more;
            workgroupBarrier();
        }
        var running = before;
        if (t > 0u) { running += sums[t - 1u]; }
        for (var i = begin; i < end; i++) {
            let at = row * p.C + {{ "p.C - 1u - i" if reverse else "i" }};
            running += T(x[at]);
            out[at] = F(running);
        }
        before += sums[BLOCK - 1u];
        workgroupBarrier();
    }
}
