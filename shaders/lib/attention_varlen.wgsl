{# Attention whose workgroups find their sequence among packed ones first; where `varlen` is not defined, nothing of it.
   Macros: import them `with context`. #}

{% macro shared() %}
{% if varlen is defined %}
struct Place { found: bool, g: u32, p: Params }

// Where sequence i begins and the one before it ends, inside the tensors whatever `starts` says. After the sequences,
// number S - 1 is of the tokens that belong to none.
fn bound(i: u32) -> u32 {
    if (i == 0u) { return 0u; }
    if (i >= p.S) { return p.TQ; }
    return min(u32(starts[i]), p.TQ);
}

// Makes of a workgroup's number the one that it has in a launch for its sequence alone, and of Params those of that
// launch: the sequence is batch 1 of batches that are as long as what lies before it. Tokens of no sequence have no
// counterpart: they see nothing, and so become zero.
fn place(id: u32, rows: u32, heads: u32, keys: bool) -> Place {
    let slots = p.TQ / rows + p.S;
    let slot = id % slots;
    var low = 0u;  // sequence i has the slots from bound(i) / rows + i on
    var high = p.S - 1u;
    while (low < high) {
        let middle = (low + high + 1u) / 2u;
        if (bound(middle) / rows + middle <= slot) { low = middle; } else { high = middle - 1u; }
    }
    let start = bound(low);
    let length = max(bound(low + 1u), start) - start;
    let tile = slot - start / rows - low;
    let tiles = (length + rows - 1u) / rows;
    let alone = low == p.S - 1u;
    var found = Place(tile < tiles && id / slots < heads, (heads + id / slots) * tiles + tile, p);
    found.p.TQ = select(length, 0u, alone && keys);
    found.p.TK = select(length, 0u, alone && !keys);
    found.p.q_b = start * p.q_t;
    found.p.k_b = start * p.k_t;
    found.p.o_b = start * p.o_t;
    return found;
}
{% endif %}
{% endmacro %}

{# how many workgroups own `tokens` (TQ or TK) of `heads` (H or KVH), `rows` each #}
{% macro groups(heads, tokens, rows) -%}
{% if varlen is defined %}p.{{ heads }} * (p.{{ tokens }} / {{ rows }} + p.S)
{%- else %}p.B * p.{{ heads }} * ((p.{{ tokens }} + {{ rows }} - 1u) / {{ rows }}){% endif %}
{%- endmacro %}

{# `g`, and `p` of the sequence, from the number `id` of those that own rows of `heads` #}
{% macro find(rows, heads, keys=false) %}
{% if varlen is defined %}
    let here = place(id, {{ rows }}, p.{{ heads }}, {{ "true" if keys else "false" }});
    if (!here.found) { return; }
    let g = here.g;
    let p = here.p;
{% else %}
    let g = id;
{% endif %}
{% endmacro %}
