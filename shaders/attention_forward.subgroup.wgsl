{% import "lib/attention.subgroup.wgsl" as rows with context %}
{% import "lib/attention_varlen.wgsl" as varied with context %}
{% set STEP, CHUNKS = rows.STEP, rows.D4 %}
// A lane owns R queries of a head; keys and values stream past under an online softmax.

const TILE = R * BLOCK;
const D4 = D / 4u;
const LOW = -3.0e38f;  // below every score
{{ varied.shared() }}

{% set queries = ("q", "q_row", "p.q_t", "p.TQ") %}
{% set keys = ("k", "k_row", "p.k_t", "p.TK") %}
{% set values = ("v", "v_row", "p.k_t", "p.TK") %}
{% set outs = ("out", "o_row", "p.o_t", "p.TQ") %}
@compute @workgroup_size(BLOCK)
fn {{ spec.kernel.name }}(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) nwg: vec3u,
                          @builtin(local_invocation_index) t: u32) {
    let id = wid.x + wid.y * nwg.x;
    if (id >= p.groups) { return; }
    {{- varied.find("TILE", "H") }}
    let tiles = (p.TQ + TILE - 1u) / TILE;
    let first = (tiles - 1u - g % tiles) * TILE;  // the tiles that see most keys start first
    let b = g / tiles / p.H;
    let h = g / tiles % p.H;
    let key_head = h / (p.H / p.KVH);
    let q_row = b * p.q_b + h * p.q_h;
    let k_row = p.k_at + b * p.k_b + key_head * p.k_h;
    let v_row = p.v_at + b * p.k_b + key_head * p.k_h;
    let o_row = b * p.o_b + h * p.o_h;
    {{- rows.own("q", queries, R, " * p.scale") }}
    {{- rows.zeros("acc", R) }}
    {% for r in range(R) %}
    let seen{{ r }} = min(p.TK, first + {{ r }}u * BLOCK + t + p.offset + 1u);
    var top{{ r }} = LOW;
    var total{{ r }} = 0.0;
    {% endfor %}
    let end = min(p.TK, min(p.TQ, first + TILE) + p.offset);
    for (var n = 0u; n < end; n += {{ STEP }}u) {
        {{- rows.stream("k", keys) }}
        {{- rows.stream("v", values) }}
        {{- rows.scores("s", "q", "k", R) }}
        {% for r in range(R) %}
        var new{{ r }} = top{{ r }};
        {% for j in range(STEP) %}
        s{{ r }}_{{ j }} = select(LOW, s{{ r }}_{{ j }}, n + {{ j }}u < seen{{ r }});
        new{{ r }} = max(new{{ r }}, s{{ r }}_{{ j }});
        {% endfor %}
        let keep{{ r }} = exp(top{{ r }} - new{{ r }});
        top{{ r }} = new{{ r }};
        total{{ r }} *= keep{{ r }};
        {% for j in range(STEP) %}
        s{{ r }}_{{ j }} = exp(s{{ r }}_{{ j }} - top{{ r }});
        total{{ r }} += s{{ r }}_{{ j }};
        {% endfor %}
        {% endfor %}
        {% for c in range(CHUNKS) %}
        {% for j in range(STEP) %}
        {{- rows.hand("v", j, c) }}
        {% endfor %}
        {% for r in range(R) %}
        acc{{ r }}_{{ c }} *= keep{{ r }};
        {% endfor %}
        {% endfor %}
        {{- rows.product("acc", "s", "v", R) }}
    }
    {% for r in range(R) %}
    let share{{ r }} = select(1.0 / total{{ r }}, 0.0, p.TK == 0u);
    if (first + {{ r }}u * BLOCK + t < p.TQ) {
        lse[o_row + (first + {{ r }}u * BLOCK + t) * p.o_t] = select(top{{ r }} + log(total{{ r }}), 0.0, p.TK == 0u);
    }
    {% endfor %}
    {{- rows.store(outs, "acc", R, "share{r}") }}
}
