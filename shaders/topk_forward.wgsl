// One workgroup per row: find the key of the k-th best, collect what is better and the first of what equals it, in any
// order, then give each its place by counting the better ones. Short rows are collected whole.
{% set LONG = C > 256 %}
{% include "lib/order.wgsl" %}
const n = max(C / W, 1u);
var<workgroup> keys: array<u32, 256>;
var<workgroup> places: array<u32, 256>;
{% if LONG %}
{% set BITS = 11 if C > 4096 else 8 %}  {#- of a key, looked at in one pass #}
{% include "lib/bins.wgsl" %}
const SEGMENT = (n + BINS - 1u) / BINS;
var<workgroup> filled: atomic<u32>;
var<workgroup> found: vec2u;

// The key of the k-th best, and how many that equal it come before it.
fn select_key(base: u32, t: u32) -> vec2u {
    var rest = p.K - 1u;
    var prefix = 0u;
    var mask = 0u;
    for (var left = 32u; left > 0u;) {
        let last = (1u << min(BITS, left)) - 1u;
        left -= min(BITS, left);
        for (var b = t; b < BINS; b += BLOCK) { atomicStore(&bins[b], 0u); }
        workgroupBarrier();
        for (var c = t; c < n; c += BLOCK) {
            let k = key(vecT(x[base + c]));
            let inside = ((k ^ vecu(prefix)) & vecu(mask)) == vecu(0u);
            let bin = vecu(last) - ((k >> vecu(left)) & vecu(last));
{% for at in (("[0]", "[1]", "[2]", "[3]") if W == 4 else ("",)) %}
            if (inside{{ at }}) { atomicAdd(&bins[bin{{ at }}], 1u); }
{% endfor %}
        }
        settle(t);
        let before = select(0u, sums[max(t, 1u) - 1u], t > 0u);
        if (rest >= before && rest < sums[t]) {
            var b = t * SHARE;
            var more = rest - before;
            for (; more >= atomicLoad(&bins[b]); b++) { more -= atomicLoad(&bins[b]); }
            found = vec2u(b, more);
        }
        workgroupBarrier();
        prefix |= (last - found.x) << left;
        mask |= last << left;
        rest = found.y;
        workgroupBarrier();
    }
    return vec2u(prefix, rest);
}

fn collect(base: u32, t: u32) {
    let limit = select_key(base, t);
    for (var b = t; b < BINS; b += BLOCK) { atomicStore(&bins[b], 0u); }
    if (t == 0u) { atomicStore(&filled, 0u); }
    workgroupBarrier();
    for (var c = t; c < n; c += BLOCK) {
        let k = key(vecT(x[base + c]));
{% for at in (("[0]", "[1]", "[2]", "[3]") if W == 4 else ("",)) %}
        if (k{{ at }} > limit.x) {
            let slot = atomicAdd(&filled, 1u);
            keys[slot] = k{{ at }};
            places[slot] = c * W + {{ loop.index0 }}u;
        } else if (k{{ at }} == limit.x) {
            atomicAdd(&bins[c / SEGMENT], 1u);
        }
{% endfor %}
    }
    settle(t);
    var before = select(0u, sums[max(t, 1u) - 1u], t > 0u);
    let first = p.K - 1u - limit.y;
    for (var b = t * SHARE; b < (t + 1u) * SHARE; b++) {
        if (atomicLoad(&bins[b]) == 0u) { continue; }
        for (var c = b * SEGMENT; c < min((b + 1u) * SEGMENT, n) && before <= limit.y; c++) {
            let k = key(vecT(x[base + c]));
{% for at in (("[0]", "[1]", "[2]", "[3]") if W == 4 else ("",)) %}
            if (k{{ at }} == limit.x && before <= limit.y) {
                keys[first + before] = limit.x;
                places[first + before] = c * W + {{ loop.index0 }}u;
                before++;
            }
{% endfor %}
        }
    }
}
{% endif %}

@compute @workgroup_size(BLOCK)
fn topk_forward(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) nwg: vec3u,
                @builtin(local_invocation_index) t: u32) {
    let row = wid.x + wid.y * nwg.x;
    if (row >= p.groups) { return; }
    let base = row * n;
{% if LONG %}
    collect(base, t);
    let count = p.K;
{% else %}
    const count = C;
    for (var c = t; c < C / W; c += BLOCK) {
        let k = key(vecT(x[base + c]));
{% for at in (("[0]", "[1]", "[2]", "[3]") if W == 4 else ("",)) %}
        keys[c * W + {{ loop.index0 }}u] = k{{ at }};
        places[c * W + {{ loop.index0 }}u] = c * W + {{ loop.index0 }}u;
{% endfor %}
    }
{% endif %}
    workgroupBarrier();
    for (var i = t; i < count; i += BLOCK) {
        let k = keys[i];
        let at = places[i];
        var rank = 0u;
        for (var j = 0u; j < count; j++) { rank += select(0u, 1u, keys[j] > k || (keys[j] == k && places[j] < at)); }
        if (rank < p.K) {
            values[row * p.K + rank] = x[base + at / W]{{ "[at % W]" if W == 4 }};
            indices[row * p.K + rank] = i32(at);
        }
    }
}
