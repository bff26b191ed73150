// Which tokens of a row may be drawn: those above a threshold, which is found without sorting. Logits are ordered by
// keys, unsigned images of the floats; probabilities count in units of 2^-31, in integers: sums need no fixed order.
{% set BITS = 11 if V > 4096 else 8 %}  {#- of a key, looked at in one pass #}
{% include "lib/bins.wgsl" %}
{% include "lib/reduce.wgsl" %}
alias vecu = {{ "vec4<u32>" if W == 4 else "u32" }};
{% if W == 4 %}
fn vec_total(v: vecu) -> u32 { return (v.x + v.y) + (v.z + v.w); }
fn vec_top(v: vecu) -> u32 { return max(max(v.x, v.y), max(v.z, v.w)); }
{% else %}
fn vec_total(v: vecu) -> u32 { return v; }
fn vec_top(v: vecu) -> u32 { return v; }
{% endif %}
const n = V / W;
const LOWEST = 0x00800000u;    // key of the lowest finite float: minus infinity is never drawn
const HIGHEST = 0xff7fffffu;   // and of the highest
const UNITS = 2147483648.0f;
var<workgroup> found: vec2u;
var<private> top: f32;         // the largest logit
var<private> threshold: u32;   // key of the smallest that may be drawn
var<private> inverse: f32;     // 1 / temperature
var<private> scale: f32;       // from exp((logit - top) / temperature) to units

// Logits after the repetition penalty.
fn logit(i: u32) -> vecf {
    let x = vecf(logits[i]);
    if (settings[4] == 1.0f) { return x; }
    return select(x, x * select(vecf(settings[4]), vecf(1.0f / settings[4]), x > vecf(0.0f)), seen[i] != vecu(0u));
}

// Ordered like the floats, -0 like 0, NaN above all.
fn key(x: vecf) -> vecu {
    let bits = bitcast<vecu>(x);
    let ordered = select(bits | vecu(0x80000000u), ~bits, bits > vecu(0x80000000u));
    return select(ordered, vecu(0xffffffffu), (bits & vecu(0x7fffffffu)) > vecu(0x7f800000u));
}

fn weight(x: vecf) -> vecf { return select(vecf(0.0f), exp((x - top) * inverse), key(x) >= vecu(threshold)); }
fn mass(x: vecf) -> vecu { return vecu(weight(x) * scale + 0.5f); }

fn block_top(v: u32, t: u32) -> u32 {
    sums[t] = v;
    workgroupBarrier();
    for (var s = BLOCK / 2u; s > 0u; s >>= 1u) {
        if (t < s) { sums[t] = max(sums[t], sums[t + s]); }
        workgroupBarrier();
    }
    let highest = sums[0];
    workgroupBarrier();
    return highest;
}

// After settle: the bin in which the running sum passes `goal`, and how far into it goal lies. Empties the bins.
fn find(goal: u32, t: u32) -> vec2u {
    var before = 0u;
    if (t > 0u) { before = sums[t - 1u]; }
    if (goal >= before && goal < sums[t]) {
        var b = t * SHARE;
        var rest = goal - before;
        for (; rest >= atomicLoad(&bins[b]); b++) { rest -= atomicLoad(&bins[b]); }
        found = vec2u(b, rest);
    }
    workgroupBarrier();
    for (var b = t * SHARE; b < (t + 1u) * SHARE; b++) { atomicStore(&bins[b], 0u); }
    let here = found;
    workgroupBarrier();
    return here;
}

// The key of the last of the `count` largest logits; or, if part > 0, of the largest that have that part of the mass.
fn select_key(base: u32, count: u32, part: f32, t: u32) -> u32 {
    var rest = 0u;
    var prefix = 0u;
    var mask = 0u;
    for (var left = 32u; left > 0u;) {
        let last = (1u << min(BITS, left)) - 1u;
        left -= min(BITS, left);
        for (var c = t; c < n; c += BLOCK) {
            let x = logit(base + c);
            let k = key(x);
            let inside = (((k ^ vecu(prefix)) & vecu(mask)) == vecu(0u)) & (k >= vecu(threshold));
            if ({{ "any(inside)" if W == 4 else "inside" }}) {
                var amount = vecu(1u);
                if (part > 0.0f) { amount = mass(x); }
                amount = select(vecu(0u), amount, inside);
                let bin = vecu(last) - ((k >> vecu(left)) & vecu(last));
{% for at in (("[0]", "[1]", "[2]", "[3]") if W == 4 else ("",)) %}
                if (amount{{ at }} > 0u) { atomicAdd(&bins[bin{{ at }}], amount{{ at }}); }
{% endfor %}
            }
        }
        let total = settle(t);
        if (mask == 0u) { rest = clamp(select(count, u32(part * f32(total)), part > 0.0f), 1u, total) - 1u; }
        let place = find(rest, t);
        prefix |= (last - place.x) << left;
        mask |= last << left;
        rest = place.y;
    }
    return prefix;
}

// Sets threshold and what mass() needs. Returns whether the row is usable: no NaN, nothing infinite but -infinity.
fn filter_row(base: u32, t: u32) -> bool {
    for (var b = t; b < BINS; b += BLOCK) { atomicStore(&bins[b], 0u); }  // the next barrier is block_top's
    var k = vecu(0u);
    for (var c = t; c < n; c += BLOCK) { k = max(k, key(logit(base + c))); }
    let highest = block_top(vec_top(k), t);
    top = bitcast<f32>(select(~highest, highest ^ 0x80000000u, highest >= 0x80000000u));
    threshold = highest;  // temperature 0: the likeliest, which weigh 1 unit each
    inverse = 0.0f;
    scale = 1.0f;
    if (settings[0] > 0.0f) {
        threshold = LOWEST;
        inverse = min(1.0f / settings[0], 1e30f);  // finite: the top weighs 1
        if (settings[1] > 0.0f && settings[1] < f32(V)) {
            threshold = max(LOWEST, select_key(base, u32(settings[1]), 0.0f, t));
        }
        var sum = vecf(0.0f);
        for (var c = t; c < n; c += BLOCK) { sum += weight(logit(base + c)); }
        scale = UNITS / block_sum(vec_sum(sum), t);
        if (settings[2] < 1.0f) { threshold = max(threshold, select_key(base, 0u, settings[2], t)); }
        if (settings[3] > 0.0f) {
            let least = key(vecf(top + settings[0] * min(log(settings[3]), 0.0f)));
            threshold = max(threshold, vec_top(least));
        }
    }
    return highest >= LOWEST && highest <= HIGHEST;
}
