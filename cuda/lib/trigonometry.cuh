// sin and cos of any float, as in shaders/lib/trigonometry.wgsl. Not sinf and cosf: they keep the bits of 2 / pi in an
// array, which NVRTC 13.0 puts into every thread's local memory.
#pragma once

struct Angle { float rest, low; u32 quarters; };

// |x| = quarters pi / 2 + (rest + low), within pi / 4, by M. H. Payne and R. N. Hanek, 1983: x = m 2^e, m an integer,
// is multiplied by the 96 bits of 2 / pi that make less than a whole turn; 64 bits are kept, of which the first two
// count quarters modulo 4. No float but those that are themselves below pi / 4 leaves a rest below 2^-31.
__device__ __forceinline__ Angle reduce_angle(float x) {
    const u32 bits = __float_as_uint(x) & 0x7fffffffu, m = (bits & 0x7fffffu) | 0x800000u;
    const u32 e = bits >> 23, start = (e < 126 ? 126 : e > 254 ? 254 : e) - 120;  // a bit of 0, 2^32 2 / pi, ...
    const u32 word = start >> 5, shift = start & 31;
    u32 a = 0xf534ddc0u, b = 0xdb629599u, c = 0x3c439041u, d = 0xfe5163abu;
    if (word == 3) a = 0xfc2757d1u, b = 0xf534ddc0u, c = 0xdb629599u, d = 0x3c439041u;
    if (word == 2) a = 0x4e441529u, b = 0xfc2757d1u, c = 0xf534ddc0u, d = 0xdb629599u;
    if (word == 1) a = 0xa2f9836eu, b = 0x4e441529u, c = 0xfc2757d1u, d = 0xf534ddc0u;
    if (word == 0) a = 0x00000000u, b = 0xa2f9836eu, c = 0x4e441529u, d = 0xfc2757d1u;
    a = (a << shift) | ((b >> 1) >> (31 - shift));
    b = (b << shift) | ((c >> 1) >> (31 - shift));
    c = (c << shift) | ((d >> 1) >> (31 - shift));
    const u32 low = m * b + __umulhi(m, c), high = m * a + __umulhi(m, b) + (low < m * b);
    // What is beyond the quarters has a sign: more than half a quarter belongs to the next one.
    const u32 beyond = (high << 2) | (low >> 30), flip = beyond >> 31 ? 0xffffffffu : 0u;
    const u32 zeros = __clz(int(beyond ^ flip));
    const u32 first = ((beyond ^ flip) << zeros) | ((((low << 2) ^ flip) >> 1) >> (31 - zeros));
    const float unit = __uint_as_float(((103 - zeros) << 23) | (flip & 0x80000000u)), size = float(first >> 8) * unit;
    const float low_size = float(first & 255) * (unit * 0.00390625f);
    if (bits < 0x3f490fdbu) return {fabsf(x), 0.f, 0};
    return {size * 1.5707964f, low_size * 1.5707964f - size * 4.371139e-8f, (high + 0x20000000u) >> 30};
}

// Minimax polynomials of our own within pi / 4: relative errors 4e-9 and 1e-10.
__device__ __forceinline__ float sine_near_0(float r, float low) {
    const float z = r * r;
    return r + (r * z * (-0.16666655f + z * (0.008332189f - z * 0.00019518292f)) + low);
}
__device__ __forceinline__ float cosine_near_0(float r, float low) {
    const float z = r * r, rest = z * z * (0.041666646f + z * (-0.001388731f + z * 2.4432327e-05f)) - r * low;
    return 1.f - (0.5f * z - rest);
}

__device__ __forceinline__ float sin_(float x) {
    const Angle a = reduce_angle(x);
    const float size = a.quarters & 1 ? cosine_near_0(a.rest, a.low) : sine_near_0(a.rest, a.low);
    const u32 negative = ((a.quarters << 30) ^ __float_as_uint(x)) & 0x80000000u;
    return is_finite(x) ? __uint_as_float(__float_as_uint(size) ^ negative) : x - x;
}
__device__ __forceinline__ float cos_(float x) {
    const Angle a = reduce_angle(x);
    const float size = a.quarters & 1 ? sine_near_0(a.rest, a.low) : cosine_near_0(a.rest, a.low);
    return is_finite(x) ? (a.quarters + 1) & 2 ? -size : size : x - x;
}
