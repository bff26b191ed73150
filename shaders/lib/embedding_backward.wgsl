{# The gradient of an embedding, as macros: import them `with context`. With `add` it joins what is there. #}
{% macro shared() %}
// A workgroup has a few columns of one table row: LANES invocations a column, then a tree over the lanes.
const COLUMNS = min(BLOCK, 32u);
const LANES = BLOCK / COLUMNS;
var<workgroup> sums: array<vecf, BLOCK>;
{% endmacro %}

{% macro body(add) %}
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
{% if add %}
    if (c < n && u32(first[v]) < end) { dweight[v * n + c] = vecF(vecf(dweight[v * n + c]) + vecf(vecF(total))); }
{% else %}
    if (c < n) { dweight[v * n + c] = vecF(total); }
{% endif %}
{% endmacro %}
