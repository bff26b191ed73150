// sin and cos of any float. WGSL promises its own only within [-pi, pi], and there to 2^-11; so the quarter turns are
// taken off by integers, which no driver rounds or reorders, and the rest has polynomials of our own.

// The upper half of the product of 24 bits and 32, by halves.
fn upper_product(m: u32, w: u32) -> u32 {
    let middle = (m & 0xffffu) * (w >> 16u) + (((m & 0xffffu) * (w & 0xffffu)) >> 16u);
    return (m >> 16u) * (w >> 16u) + (middle >> 16u) + (((m >> 16u) * (w & 0xffffu) + (middle & 0xffffu)) >> 16u);
}

struct Angle { rest: f32, low: f32, quarters: u32 }

// |x| = quarters pi / 2 + (rest + low), within pi / 4, by M. H. Payne and R. N. Hanek, 1983: x = m 2^e, m an integer,
// is multiplied by the 96 bits of 2 / pi that make less than a whole turn; 64 bits are kept, of which the first two
// count quarters modulo 4. No float but those that are themselves below pi / 4 leaves a rest below 2^-31.
fn reduce_angle(x: f32) -> Angle {
    let bits = bitcast<u32>(x) & 0x7fffffffu;
    let m = (bits & 0x7fffffu) | 0x800000u;
    let start = clamp(bits >> 23u, 126u, 254u) - 120u;  // a bit of 0, 2^32 2 / pi, ...
    let word = start >> 5u;
    var four = vec4<u32>(0xf534ddc0u, 0xdb629599u, 0x3c439041u, 0xfe5163abu);
    four = select(four, vec4<u32>(0xfc2757d1u, 0xf534ddc0u, 0xdb629599u, 0x3c439041u), word == 3u);
    four = select(four, vec4<u32>(0x4e441529u, 0xfc2757d1u, 0xf534ddc0u, 0xdb629599u), word == 2u);
    four = select(four, vec4<u32>(0xa2f9836eu, 0x4e441529u, 0xfc2757d1u, 0xf534ddc0u), word == 1u);
    four = select(four, vec4<u32>(0x00000000u, 0xa2f9836eu, 0x4e441529u, 0xfc2757d1u), word == 0u);
    let shift = vec3<u32>(start & 31u);
    let w = (four.xyz << shift) | ((four.yzw >> vec3<u32>(1u)) >> (vec3<u32>(31u) - shift));
    let low = m * w.y + upper_product(m, w.z);
    let high = m * w.x + upper_product(m, w.y) + u32(low < m * w.y);
    // What is beyond the quarters has a sign: more than half a quarter belongs to the next one.
    let beyond = (high << 2u) | (low >> 30u);
    let flip = select(0u, 0xffffffffu, (beyond >> 31u) == 1u);
    let zeros = countLeadingZeros(beyond ^ flip);
    let first = ((beyond ^ flip) << zeros) | ((((low << 2u) ^ flip) >> 1u) >> (31u - zeros));
    let unit = bitcast<f32>(((103u - zeros) << 23u) | (flip & 0x80000000u));
    let size = f32(first >> 8u) * unit;
    let low_size = f32(first & 255u) * (unit * 0.00390625f);
    if (bits < 0x3f490fdbu) { return Angle(abs(x), 0.0f, 0u); }
    return Angle(size * 1.5707964f, low_size * 1.5707964f - size * 4.371139e-8f, (high + 0x20000000u) >> 30u);
}

// Minimax polynomials of our own within pi / 4: relative errors 4e-9 and 1e-10.
fn sine_near_0(r: f32, low: f32) -> f32 {
    let z = r * r;
    return r + (r * z * (-0.16666655f + z * (0.008332189f - z * 0.00019518292f)) + low);
}
fn cosine_near_0(r: f32, low: f32) -> f32 {
    let z = r * r;
    let rest = z * z * (0.041666646f + z * (-0.001388731f + z * 2.4432327e-05f)) - r * low;
    return 1.0f - (0.5f * z - rest);
}

fn not_beyond(value: f32, x: f32) -> f32 {  // NaN of infinity and of NaN
    return select(value, bitcast<f32>(0x7fc00000u | (bitcast<u32>(x) & 1u)), !is_finite(x));
}
fn sin_(x: f32) -> f32 {
    let a = reduce_angle(x);
    let size = select(sine_near_0(a.rest, a.low), cosine_near_0(a.rest, a.low), (a.quarters & 1u) != 0u);
    let negative = (a.quarters << 30u) ^ bitcast<u32>(x);
    return not_beyond(bitcast<f32>(bitcast<u32>(size) ^ (negative & 0x80000000u)), x);
}
fn cos_(x: f32) -> f32 {
    let a = reduce_angle(x);
    let size = select(cosine_near_0(a.rest, a.low), sine_near_0(a.rest, a.low), (a.quarters & 1u) != 0u);
    return not_beyond(select(size, -size, ((a.quarters + 1u) & 2u) != 0u), x);
}
