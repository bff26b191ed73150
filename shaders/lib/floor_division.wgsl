// Division that rounds down, as Python's // and % do, of T: i32 or f32.
{% if T == "i32" %}
fn floor_div(a: i32, b: i32) -> i32 {  // by 0 it is 0
    let down = b != 0 && a % b != 0 && (a < 0) != (b < 0);
    return select(a / b - i32(down), 0, b == 0);
}
fn floor_mod(a: i32, b: i32) -> i32 {
    let r = a % b;
    return select(r, r + b, r != 0 && (r < 0) != (b < 0));
}
{% else %}
// a - b trunc(a / b), of a's sign, exactly: long division of the bits, eight at a time. WGSL's own % rounds a / b, and
// is off by all of b where that is next to a whole number.
fn exact_mod(a: f32, b: f32) -> f32 {
    let x = bitcast<u32>(a) & 0x7fffffffu;
    let y = bitcast<u32>(b) & 0x7fffffffu;
    if (x >= 0x7f800000u || y > 0x7f800000u || y == 0u) { return bitcast<f32>(0x7fc00000u | (x & 1u)); }
    if (x < y) { return a; }
    let low = max(y >> 23u, 1u);
    let divisor = (y & 0x7fffffu) | select(0u, 0x800000u, y >= 0x800000u);
    var left = max(x >> 23u, 1u) - low;
    var m = ((x & 0x7fffffu) | select(0u, 0x800000u, x >= 0x800000u)) % divisor;
    while (left > 0u) {
        let bits = min(left, 8u);
        m = (m << bits) % divisor;
        left -= bits;
    }
    let up = min(countLeadingZeros(m) - 8u, low - 1u);  // to where a float has its first bit; m is below 2^24
    let size = select(((low - up - 1u) << 23u) + (m << up), 0u, m == 0u);
    return bitcast<f32>(size | (bitcast<u32>(a) & 0x80000000u));
}
fn floor_mod(a: f32, b: f32) -> f32 {
    let r = exact_mod(a, b);
    return select(r, r + b, r != 0.0f && (r < 0.0f) != (b < 0.0f));
}
fn floor_div(a: f32, b: f32) -> f32 {
    let r = exact_mod(a, b);
    let q = round((a - r) / b - select(0.0f, 1.0f, r != 0.0f && (r < 0.0f) != (b < 0.0f)));
    return select(select(q, r, is_nan(r)), a / b, b == 0.0f);
}
{% endif %}
