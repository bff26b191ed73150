// Two normal numbers from two words. WGSL promises log and cos only coarsely, and every backend is to make the same
// numbers: so both are polynomials here, on ranges that integers are reduced to exactly.

// -ln(n / 2^24) for n from 1 to 2^24: n = m 2^e with m in [0.7, 1.4], ln m = 2 atanh((m - 1) / (m + 1)).
fn minus_log(n: u32) -> f32 {
    let shift = countLeadingZeros(n);
    let whole = f32((n << shift) >> 8u) * 1.1920929e-7f;  // m in [1, 2)
    let above = whole > 1.4142135f;
    let m = select(whole, whole * 0.5f, above);
    let e = select(31i, 32i, above) - i32(shift);
    let s = (m - 1.0f) / (m + 1.0f);
    let z = s * s;
    return f32(24i - e) * 0.6931472f - s * (2.0f + z * (0.6666682f + z * (0.3997485f + z * 0.2992439f)));
}

// cos and sin of the angle k / 2^24 of a turn: a quarter turn, and the rest within half a quarter.
fn cos_sin(k: u32) -> vec2f {
    let quarter = (k + (1u << 21u)) >> 22u;
    let r = f32(i32(k) - i32(quarter << 22u)) * 2.3841858e-7f;
    let z = r * r;
    let c = 1.0f + z * (-1.2337005f + z * (0.2536692f + z * (-0.02086007f + z * 9.0362807e-4f)));
    let s = r * (1.5707964f + z * (-0.6459641f + z * (0.07969258f + z * (-0.0046812664f + z * 1.5820628e-4f))));
    let odd = (quarter & 1u) == 1u;
    let x = select(c, s, odd);
    let y = select(s, c, odd);
    return vec2f(select(x, -x, ((quarter + 1u) & 2u) != 0u), select(y, -y, (quarter & 2u) != 0u));
}

fn normal_pair(a: u32, b: u32) -> vec2f {
    return sqrt(2.0f * minus_log((a >> 8u) + 1u)) * cos_sin(b >> 8u);
}
