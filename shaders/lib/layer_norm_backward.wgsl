{# Backward of LayerNorm, as macros: import them `with context`. `dropped`: dx lies in dh's place,
   and its dropout is made too, or without DROP dx in another dtype. #}
{% import "lib/row.wgsl" as row with context %}
{% macro shared() %}
{% include "lib/reduce.wgsl" %}
// A workgroup walks over rows g, g + S, ...; each invocation keeps its columns' sums for weight and bias in registers.
const COLUMNS = {{ row.columns }}u;  // per invocation
{% if subgroups is defined %}
fn block_sum2(v: vec2f, t: u32) -> vec2f { return subgroupAdd(v); }
{% else %}
var<workgroup> pairs: array<vec2f, BLOCK>;

fn block_sum2(v: vec2f, t: u32) -> vec2f {
    pairs[t] = v;
    workgroupBarrier();
    for (var s = BLOCK / 2u; s > 0u; s >>= 1u) {
        if (t < s) { pairs[t] += pairs[t + s]; }
        workgroupBarrier();
    }
    let total = pairs[0];
    workgroupBarrier();  // before pairs is used again
    return total;
}
{% endif %}

{% endmacro %}

{% macro body(dropped) %}
    let g = wid.x + wid.y * nwg.x;
    if (g >= p.groups) { return; }
    let n = C / W;
    var dw: array<vecf, COLUMNS>;
    var db: array<vecf, COLUMNS>;
    for (var row = g; row < p.N; row += p.S) {
{% if row.held %}
        var es: array<vecf, COLUMNS>;
        var ys: array<vecf, COLUMNS>;
{% endif %}
        let base = row * n;
        let m = {{ "stats[row]" if dropped else "mean[row]" }};
        let r = {{ "stats[p.N + row]" if dropped else "rstd[row]" }};
        var a = vecf(0.0);
        var b = vecf(0.0);
        for (var k = 0u; k < COLUMNS; k++) {
            let c = t + k * BLOCK;
            if (c < n) {
                let d = vecf(dout[base + c]);
                let y = (vecf(x[base + c]) - m) * r;
                let e = d{{ " * vecf(weight[c])" if A }};
                a += e;
                b += e * y;
{% if row.held %}
                es[k] = e;
                ys[k] = y;
{% endif %}
{% if P > 0 %}
                dw[k] += d * y;
{% endif %}
{% if P > 1 %}
                db[k] += d;
{% endif %}
            }
        }
        let means = block_sum2(vec2f(vec_sum(a), vec_sum(b)), t) / f32(C);
        for (var k = 0u; k < COLUMNS; k++) {
            let c = t + k * BLOCK;
            if (c < n) {
{% if row.held %}
                let e = es[k];
                let y = ys[k];
{% else %}
                let e = vecf(dout[base + c]){{ " * vecf(weight[c])" if A }};
                let y = (vecf(x[base + c]) - m) * r;
{% endif %}
                let slope = r * (e - means.x - y * means.y)
                    {{- " + vecf(%s[base + c])" % ("dx" if dropped else "dh") if R }};
                dx[base + c] = vecF(slope);
{% if dropped and DROP %}
                let kept = random_words(base + c) >= vec4u(p.threshold);
                dropped[base + c] = vecY(select(vec4f(0.0), vecf(vecY(vecF(slope))) * p.scale, kept));
{% elif dropped %}
                dropped[base + c] = vecY(slope);
{% endif %}
            }
        }
    }
{% if P > 0 %}
    for (var k = 0u; k < COLUMNS; k++) {
        let c = t + k * BLOCK;
        if (c < n) {
            partial[g * P * n + c] = dw[k];
{% if P > 1 %}
            partial[(g * P + 1u) * n + c] = db[k];
{% endif %}
        }
    }
{% endif %}
{% endmacro %}
