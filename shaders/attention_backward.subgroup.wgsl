{% import "lib/attention.subgroup.wgsl" as rows with context %}
{% import "lib/attention_varlen.wgsl" as varied with context %}
{% set STEP = rows.STEP %}
// As attention_backward.wgsl, with RQ queries or RK keys to a lane.

const QUERIES = RQ * BLOCK;
const KEYS = RK * BLOCK;
const D4 = D / 4u;
{{ varied.shared() }}

{% set queries = ("q", "q_row", "p.q_t", "p.TQ") %}
{% set keys = ("k", "k_row", "p.k_t", "p.TK") %}
{% set values = ("v", "v_row", "p.k_t", "p.TK") %}
{% set douts = ("dout", "o_row", "p.o_t", "p.TQ") %}
fn own_queries(id: u32, t: u32) {
    {{- varied.find("QUERIES", "H") }}
    let tiles = (p.TQ + QUERIES - 1u) / QUERIES;
    let first = (tiles - 1u - g % tiles) * QUERIES;
    let b = g / tiles / p.H;
    let h = g / tiles % p.H;
    let key_head = h / (p.H / p.KVH);
    let q_row = b * p.q_b + h * p.q_h;
    let k_row = p.k_at + b * p.k_b + key_head * p.k_h;
    let v_row = p.v_at + b * p.k_b + key_head * p.k_h;
    let o_row = b * p.o_b + h * p.o_h;
    {{- rows.own("q", queries, RQ, " * p.scale") }}
    {{- rows.own("do", douts, RQ) }}
    {{- rows.zeros("acc", RQ) }}
    {% for r in range(RQ) %}
    let i{{ r }} = first + {{ r }}u * BLOCK + t;
    let seen{{ r }} = min(p.TK, i{{ r }} + p.offset + 1u);
    let lse{{ r }} = lse[o_row + min(i{{ r }}, p.TQ - 1u) * p.o_t];
    let delta{{ r }} = delta[o_row + min(i{{ r }}, p.TQ - 1u) * p.o_t];
    {% endfor %}
    let end = min(p.TK, min(p.TQ, first + QUERIES) + p.offset);
    for (var n = 0u; n < end; n += {{ STEP }}u) {
        {{- rows.stream("k", keys) }}
        {{- rows.stream("v", values) }}
        {{- rows.scores("s", "q", "k", RQ) }}
        {{- rows.scores("ds", "do", "v", RQ) }}
        {% for r in range(RQ) %}{% for j in range(STEP) %}
        ds{{ r }}_{{ j }} = select(0.0, exp(s{{ r }}_{{ j }} - lse{{ r }}) * (ds{{ r }}_{{ j }} - delta{{ r }}),
            n + {{ j }}u < seen{{ r }});
        {% endfor %}{% endfor %}
        {{- rows.product("acc", "ds", "k", RQ) }}
    }
    {{- rows.store(("grad", "q_row", "p.q_t", "p.TQ"), "acc", RQ, "p.scale") }}
}

fn own_keys(id: u32, t: u32) {
    {{- varied.find("KEYS", "KVH", true) }}
    let tiles = (p.TK + KEYS - 1u) / KEYS;
    let first = g % tiles * KEYS;
    let b = g / tiles / p.KVH;
    let key_head = g / tiles % p.KVH;
    let k_row = p.k_at + b * p.k_b + key_head * p.k_h;
    let v_row = p.v_at + b * p.k_b + key_head * p.k_h;
    {{- rows.own("k", keys, RK, " * p.scale") }}
    {{- rows.own("v", values, RK) }}
    {{- rows.zeros("acc_k", RK) }}
    {{- rows.zeros("acc_v", RK) }}
    let group = p.H / p.KVH;
    for (var h = key_head * group; h < (key_head + 1u) * group; h++) {
        let q_row = b * p.q_b + h * p.q_h;
        let o_row = b * p.o_b + h * p.o_h;
        for (var n = max(first, p.offset) - p.offset; n < p.TQ; n += {{ STEP }}u) {
            {{- rows.stream("q", queries) }}
            {{- rows.stream("do", douts) }}
            let row = o_row + min(n + t % {{ STEP }}u, p.TQ - 1u) * p.o_t;
            let sums = lse[row];
            let deltas = delta[row];
            {{- rows.scores("s", "k", "q", RK) }}
            {{- rows.scores("ds", "v", "do", RK) }}
            {% for j in range(STEP) %}
            let sum{{ j }} = subgroupBroadcast(sums, {{ j }}u);
            let delta{{ j }} = subgroupBroadcast(deltas, {{ j }}u);
            {% for r in range(RK) %}
            s{{ r }}_{{ j }} = select(0.0, exp(s{{ r }}_{{ j }} - sum{{ j }}),
                n + {{ j }}u < p.TQ && n + {{ j }}u + p.offset >= first + {{ r }}u * BLOCK + t);
            ds{{ r }}_{{ j }} = s{{ r }}_{{ j }} * (ds{{ r }}_{{ j }} - delta{{ j }});
            {% endfor %}
            {% endfor %}
            {{- rows.product("acc_v", "s", "do", RK) }}
            {{- rows.product("acc_k", "ds", "q", RK) }}
        }
    }
    {{- rows.store(("grad", "k_row - p.k_at + p.gk_at", "p.k_t", "p.TK"), "acc_k", RK, "p.scale") }}
    {{- rows.store(("grad", "v_row - p.v_at + p.gv_at", "p.k_t", "p.TK"), "acc_v", RK, "1.0") }}
}

@compute @workgroup_size(BLOCK)
fn {{ spec.kernel.name }}(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) nwg: vec3u,
                          @builtin(local_invocation_index) t: u32) {
    let g = wid.x + wid.y * nwg.x;
    if (g >= p.groups) { return; }
    if (g == 0u) {  // the gaps before dk and dv
        let dq_end = p.B * p.H * p.TQ * D4;
        let dk_end = (p.gk_at + p.B * p.KVH * p.TK) * D4;
        for (var e = dq_end + t; e < p.gk_at * D4; e += BLOCK) { grad[e] = vecF(0.0); }
        for (var e = dk_end + t; e < p.gv_at * D4; e += BLOCK) { grad[e] = vecF(0.0); }
    }
    let query_groups = {{ varied.groups("H", "TQ", "QUERIES") }};
    if (g < query_groups) { own_queries(g, t); } else { own_keys(g - query_groups, t); }
}
