// A workgroup adds up a few columns of the partial sums: LANES invocations a column, then a tree over the lanes.
const COLUMNS = min(BLOCK, 8u);
const LANES = BLOCK / COLUMNS;
var<workgroup> sums: array<vecf, BLOCK>;

@compute @workgroup_size(BLOCK)
fn sum_partials(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) nwg: vec3u,
                @builtin(local_invocation_index) t: u32) {
    let g = wid.x + wid.y * nwg.x;
    if (g >= p.groups) { return; }
    let n = C / W;
    let j = g * COLUMNS + t % COLUMNS;  // columns of row 0, then of row 1
    var total = vecf(0.0);
    if (j < P * n) {
        for (var s = t / COLUMNS; s < p.S; s += LANES) { total += partial[s * P * n + j]; }
    }
    sums[t] = total;
    workgroupBarrier();
    for (var s = BLOCK / 2u; s >= COLUMNS; s >>= 1u) {
        if (t < s) { sums[t] += sums[t + s]; }
        workgroupBarrier();
    }
    if (t >= COLUMNS) { return; }
{% if A %}
    if (j < n) { first[j] = vecF(sums[t]); }
{% endif %}
{% if B %}
    if (j >= n && j < 2u * n) { second[j - n] = vecF(sums[t]); }
{% endif %}
}
