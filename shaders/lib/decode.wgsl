{# Attention of one query to a part of a cache, as macros: import them `with context`. First each invocation scores a
   key, then each has columns of the sum over values: `groups` invocations share a column where there are enough. #}
{% set D4 = D // 4 %}
{% set GROUPS = [1, BLOCK // D4] | max %}
{% set COLS = (D4 + BLOCK - 1) // BLOCK %}

{% macro shared() %}
const LOW = -3.0e38f;  // below every score
const D4 = D / 4u;
var<workgroup> shares: array<f32, BLOCK>;
{% if GROUPS > 1 %}
var<workgroup> sums: array<vec4f, BLOCK>;
{% endif %}
{% endmacro %}

{% macro body() %}
    let g = wid.x + wid.y * nwg.x;
    if (g >= p.groups) { return; }
    let part = g % p.P;
    let h = g / p.P % p.H;
    let token = g / p.P / p.H;
    let b = token / p.T;
    let seen = min(p.S, u32(max(lengths[b], 0)) + token % p.T + 1u);
    let per = (p.S + p.P - 1u) / p.P;
    let end = min(seen, (part + 1u) * per);
    let query = (token * (p.H + 2u * p.KVH) + h) * D4;
    let cache = b * p.S * p.KVH + h / (p.H / p.KVH);  // row of the sequence's first key; the next is KVH further
    let column = t % D4;
    let group = t / D4;
    var top = LOW;
    var total = 0.0;
    {% for k in range(COLS) %}
    var acc{{ k }} = vec4f(0.0);
    {% endfor %}
    for (var n = part * per; n < end; n += BLOCK) {
        var score = LOW;
        if (n + t < end) {
            var products = vec4f(0.0);
            for (var c = 0u; c < D4; c++) { products += vec4f(rows[query + c]) * key(cache + (n + t) * p.KVH, c); }
            score = dot(products, vec4f(1.0)) * p.scale;
        }
        shares[t] = score;
        workgroupBarrier();
        let count = min(BLOCK, end - n);
        var best = top;
        for (var j = 0u; j < count; j++) { best = max(best, shares[j]); }
        workgroupBarrier();
        let share = select(0.0, exp(score - best), n + t < end);
        shares[t] = share;
        workgroupBarrier();
        let keep = exp(top - best);
        top = best;
        total = total * keep + share;
        {% if COLS == 1 %}
        acc0 *= keep;
        if (group < {{ GROUPS }}u) {
            for (var j = group; j < count; j += {{ GROUPS }}u) {
                acc0 += shares[j] * value(cache + (n + j) * p.KVH, column);
            }
        }
        {% else %}
        {% for k in range(COLS) %}
        acc{{ k }} *= keep;
        {% endfor %}
        for (var j = 0u; j < count; j++) {
            {% for k in range(COLS) %}
            acc{{ k }} += shares[j] * value(cache + (n + j) * p.KVH, min(t + {{ k }}u * BLOCK, D4 - 1u));
            {% endfor %}
        }
        {% endif %}
        workgroupBarrier();  // before the next shares
    }
    shares[t] = total;
    {% if GROUPS > 1 %}
    sums[t] = acc0;
    {% endif %}
    workgroupBarrier();
    total = 0.0;
    for (var j = 0u; j < BLOCK; j++) { total += shares[j]; }
    let factor = select(0.0, 1.0 / total, total > 0.0);
    {% if COLS == 1 %}
    if (t < D4) {
        {% for group in range(1, GROUPS) %}
        acc0 += sums[t + {{ group }}u * D4];
        {% endfor %}
        out[g * D4 + t] = vecF(acc0 * factor);
    }
    {% else %}
    {% for k in range(COLS) %}
    if (t + {{ k }}u * BLOCK < D4) { out[g * D4 + t + {{ k }}u * BLOCK] = vecF(acc{{ k }} * factor); }
    {% endfor %}
    {% endif %}
    if (t == 0u) { lse[g] = select(LOW, top + log(total), total > 0.0); }
{% endmacro %}
