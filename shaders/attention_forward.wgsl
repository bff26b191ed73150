{% import "lib/attention.wgsl" as tile with context %}
{% import "lib/attention_varlen.wgsl" as varied with context %}
// A workgroup owns ROWS queries of a head; tiles of COLS keys and values stream past under an online softmax.
{{ tile.shared() }}
var<workgroup> partial: array<f32, ROWS * 8u>;  // what each of a row's 8 invocations knows
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
    var top{{ i }} = LOW;
    var total{{ i }} = 0.0;
    {% endfor %}
    {{- tile.zeros("acc") }}
    let end = min(p.TK, min(p.TQ, first + ROWS) + p.offset);
    for (var n = 0u; n < end; n += COLS) {
        {{- tile.scores("s", queries, "first", keys, "n") }}
        let key = vec4u(n + tx * 4u) + vec4u(0u, 1u, 2u, 3u);
        {% for i in range(4) %}
        let seen{{ i }} = min(p.TK, first + ty * 4u + {{ i }}u + p.offset + 1u);
        s{{ i }} = select(vec4f(LOW), s{{ i }} * p.scale, key < vec4u(seen{{ i }}));
        partial[t + {{ i }}u * BLOCK] = max(max(s{{ i }}.x, s{{ i }}.y), max(s{{ i }}.z, s{{ i }}.w));
        {% endfor %}
        workgroupBarrier();
        {% for i in range(4) %}
        var new{{ i }} = top{{ i }};
        for (var x = 0u; x < 8u; x++) { new{{ i }} = max(new{{ i }}, partial[ty * 8u + x + {{ i }}u * BLOCK]); }
        let keep{{ i }} = exp(top{{ i }} - new{{ i }});
        top{{ i }} = new{{ i }};
        s{{ i }} = exp(s{{ i }} - top{{ i }});
        total{{ i }} = total{{ i }} * keep{{ i }} + dot(s{{ i }}, vec4f(1.0));
        {% for chunk in range(tile.CHUNKS) %}
        acc{{ i }}_{{ chunk }} *= keep{{ i }};
        {% endfor %}
        {% endfor %}
        {{- tile.product("acc", "s", values, "n") }}
    }
    workgroupBarrier();
    {% for i in range(4) %}
    partial[t + {{ i }}u * BLOCK] = total{{ i }};
    {% endfor %}
    workgroupBarrier();
    {% for i in range(4) %}
    var sum{{ i }} = 0.0;
    for (var x = 0u; x < 8u; x++) { sum{{ i }} += partial[ty * 8u + x + {{ i }}u * BLOCK]; }
    let share{{ i }} = select(1.0 / sum{{ i }}, 0.0, p.TK == 0u);
    if (tx == 0u && first + ty * 4u + {{ i }}u < p.TQ) {
        lse[o_row + (first + ty * 4u + {{ i }}u) * p.o_t] = select(top{{ i }} + log(sum{{ i }}), 0.0, p.TK == 0u);
    }
    {% endfor %}
    {{- tile.store(outs, "first", "acc", "share{i}") }}
}
