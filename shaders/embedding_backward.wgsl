// A workgroup has a few columns of one table row: LANES invocations a column, then a tree over the lanes.
const COLUMNS = min(BLOCK, 32u);
const LANES = BLOCK / COLUMNS;
var<workgroup> sums: array<vecf, BLOCK>;

@compute @workgroup_size(BLOCK)
fn embedding_backward(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) nwg: vec3u,
                      @builtin(local_invocation_index) t: u32) {
    let g = wid.x + wid.y * nwg.x;
    if (g >= p.groups) { return; }
    let n = C / W;
    let parts = (n + COLUMNS - 1u) / COLUMNS;
    let v = g / parts;
    let c = g % parts * COLUMNS + t % COLUMNS;
    let end = u32(first[v + 1u]);
    var total = vecf(0.0);
    if (c < n) {
        for (var s = u32(first[v]) + t / COLUMNS; s < end; s += LANES) { total += vecf(dout[u32(order[s]) * n + c]); }
    }
{% if BLOCK > 32 %}
    sums[t] = total;
    workgroupBarrier();
    for (var s = BLOCK / 2u; s >= COLUMNS; s >>= 1u) {
        if (t < s) { sums[t] += sums[t + s]; }
        workgroupBarrier();
    }
    if (t >= COLUMNS) { return; }
    total = sums[t];
{% endif %}
    if (c < n) { dweight[v * n + c] = vecF(total); }
}
