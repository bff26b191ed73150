{% import "lib/attention.wgsl" as tile with context %}
{% import "lib/attention_varlen.wgsl" as varied with context %}
// The first workgroups own ROWS queries each, with keys streaming past, and make dq; the others own ROWS keys, with the
// queries of their group of heads streaming past, and make dk and dv.
{{ tile.shared() }}
{{ varied.shared() }}

{% set queries = ("q", "q_row", "p.q_t", "p.TQ") %}
{% set keys = ("k", "k_row", "p.k_t", "p.TK") %}
{% set values = ("v", "v_row", "p.k_t", "p.TK") %}
{% set douts = ("dout", "o_row", "p.o_t", "p.TQ") %}
fn own_queries(id: u32, t: u32) {
    {{- varied.find("ROWS", "H") }}
    let tiles = (p.TQ + ROWS - 1u) / ROWS;
    let first = (tiles - 1u - g % tiles) * ROWS;  // the tiles that see most keys start first
    let b = g / tiles / p.H;
    let h = g / tiles % p.H;
    let key_head = h / (p.H / p.KVH);
    let q_row = b * p.q_b + h * p.q_h;
    let k_row = p.k_at + b * p.k_b + key_head * p.k_h;
    let v_row = p.v_at + b * p.k_b + key_head * p.k_h;
    let o_row = b * p.o_b + h * p.o_h;
    let tx = t % 8u;
    let ty = t / 8u;
    {% for i in range(4) %}
    let row{{ i }} = o_row + min(first + ty * 4u + {{ i }}u, p.TQ - 1u) * p.o_t;
    let lse{{ i }} = lse[row{{ i }}];
    let delta{{ i }} = delta[row{{ i }}];
    {% endfor %}
    {{- tile.zeros("acc") }}
    let end = min(p.TK, min(p.TQ, first + ROWS) + p.offset);
    for (var n = 0u; n < end; n += COLS) {
        {{- tile.scores("s", queries, "first", keys, "n") }}
        {{- tile.scores("ds", douts, "first", values, "n") }}
        let key = vec4u(n + tx * 4u) + vec4u(0u, 1u, 2u, 3u);
        {% for i in range(4) %}
        let seen{{ i }} = min(p.TK, first + ty * 4u + {{ i }}u + p.offset + 1u);
        ds{{ i }} = select(vec4f(0.0), exp(s{{ i }} * p.scale - lse{{ i }}) * (ds{{ i }} - delta{{ i }}),
            key < vec4u(seen{{ i }}));
        {% endfor %}
        workgroupBarrier();
        {{- tile.product("acc", "ds", keys, "n") }}
    }
    {{- tile.store(("grad", "q_row", "p.q_t", "p.TQ"), "first", "acc", "p.scale") }}
}

fn own_keys(id: u32, t: u32) {
    {{- varied.find("ROWS", "KVH", true) }}
    let tiles = (p.TK + ROWS - 1u) / ROWS;
    let first = g % tiles * ROWS;
    let b = g / tiles / p.KVH;
    let key_head = g / tiles % p.KVH;
    let k_row = p.k_at + b * p.k_b + key_head * p.k_h;
    let v_row = p.v_at + b * p.k_b + key_head * p.k_h;
    let tx = t % 8u;
    let ty = t / 8u;
    {{- tile.zeros("acc_k") }}
    {{- tile.zeros("acc_v") }}
    let group = p.H / p.KVH;
    for (var h = key_head * group; h < (key_head + 1u) * group; h++) {
        let q_row = b * p.q_b + h * p.q_h;
        let o_row = b * p.o_b + h * p.o_h;
        for (var n = max(first, p.offset) - p.offset; n < p.TQ; n += COLS) {
            {{- tile.scores("s", keys, "first", queries, "n") }}
            {{- tile.scores("ds", values, "first", douts, "n") }}
            let query = vec4u(n + tx * 4u) + vec4u(0u, 1u, 2u, 3u);
            let row = o_row + min(query, vec4u(p.TQ - 1u)) * p.o_t;
            let sums = vec4f(lse[row.x], lse[row.y], lse[row.z], lse[row.w]);
            let deltas = vec4f(delta[row.x], delta[row.y], delta[row.z], delta[row.w]);
            {% for i in range(4) %}
            let sees{{ i }} = query + p.offset >= vec4u(first + ty * 4u + {{ i }}u);
            s{{ i }} = select(vec4f(0.0), exp(s{{ i }} * p.scale - sums), sees{{ i }} & (query < vec4u(p.TQ)));
            ds{{ i }} = s{{ i }} * (ds{{ i }} - deltas);
            {% endfor %}
            workgroupBarrier();
            {{- tile.product("acc_v", "s", douts, "n") }}
            workgroupBarrier();
            {{- tile.product("acc_k", "ds", queries, "n") }}
        }
    }
    {{- tile.store(("grad", "k_row - p.k_at + p.gk_at", "p.k_t", "p.TK"), "first", "acc_k", "p.scale") }}
    {{- tile.store(("grad", "v_row - p.v_at + p.gv_at", "p.k_t", "p.TK"), "first", "acc_v", "1.0") }}
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
    let query_groups = {{ varied.groups("H", "TQ", "ROWS") }};
    if (g < query_groups) { own_queries(g, t); } else { own_keys(g - query_groups, t); }
}
