// Philox4x64-10: Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3", SC 2011. What NumPy calls Philox.
// WGSL has no 64-bit integers: each is a low and a high word.
{% include "lib/philox.wgsl" %}

struct Words64 { low: vec4u, high: vec4u }

fn sum64(a: vec2u, b: vec2u) -> vec2u {
    let low = a.x + b.x;
    return vec2u(low, a.y + b.y + u32(low < a.x));
}

// The whole product, its lowest word first.
fn product64(a: vec2u, b: vec2u) -> vec4u {
    let low0 = a.x * b;
    let low1 = a.y * b;
    let high0 = high_products(vec2u(a.x), b);
    let high1 = high_products(vec2u(a.y), b);
    let one = low0.y + high0.x;
    let second = one + low1.x;
    let carry = u32(one < low0.y) + u32(second < one);
    let two = low1.y + high0.y;
    let more = two + high1.x;
    let third = more + carry;
    return vec4u(low0.x, second, third, high1.y + u32(two < low1.y) + u32(more < two) + u32(third < more));
}

fn philox64(counter: Words64, seed: vec4u) -> Words64 {
    var c = counter;
    var k0 = seed.xy;
    var k1 = seed.zw;
    for (var i = 0u; i < 10u; i++) {
        let a = product64(vec2u(c.low.x, c.high.x), vec2u(0xe14c6c93u, 0xd2e7470eu));
        let b = product64(vec2u(c.low.z, c.high.z), vec2u(0x95121157u, 0xca5a8263u));
        c = Words64(vec4u(b.z ^ c.low.y ^ k0.x, b.x, a.z ^ c.low.w ^ k1.x, a.x),
                    vec4u(b.w ^ c.high.y ^ k0.y, b.y, a.w ^ c.high.w ^ k1.y, a.y));
        k0 = sum64(k0, vec2u(0x7f4a7c15u, 0x9e3779b9u));
        k1 = sum64(k1, vec2u(0x84caa73bu, 0xbb67ae85u));
    }
    return c;
}
