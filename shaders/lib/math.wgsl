// The functions that expressions share with CUDA (cuda/lib/math.cuh) and NumPy (dualml/ops/numpy_math.py).
// Where WGSL promises little (tanh, exp, log near 1) they are built from what it does promise.

const LN2_HIGH = 0.693359375f;
const LN2_LOW = -2.12194440e-4f;

fn is_nan(x: f32) -> bool { return (bitcast<u32>(x) & 0x7fffffffu) > 0x7f800000u; }
fn is_inf(x: f32) -> bool { return (bitcast<u32>(x) & 0x7fffffffu) == 0x7f800000u; }
fn is_finite(x: f32) -> bool { return (bitcast<u32>(x) & 0x7fffffffu) < 0x7f800000u; }
fn not_(x: bool) -> bool { return !x; }

// Two minimax polynomials of our own: for erf(x)/x - 1 in x^2 near 0, for -log(1 - erf(x)) in x beyond. A fraction in
// x^2 up to 4 would be one branch, but cancels: error 4e-7 instead of 1e-7.
fn erf(x: f32) -> f32 {
    let a = min(abs(x), 4.0f);
    let s = a * a;
    let near = a + a * (0.128379151f + s * (-0.376125067f + s * (0.112819552f + s * (-0.0267712884f
        + s * (0.00499960734f - s * 0.000602183223f)))));
    let far = 1.0f - exp(-(0.000207015968f + a * (1.12762737f + a * (0.637265801f + a * (0.103856318f
        + a * (-0.0221897475f + a * (0.00303368433f - a * 0.000194945882f)))))));
    return select(sign(x) * select(far, near, a < 0.92f), x, is_nan(x));  // min and sign may lose a NaN
}

// WGSL's exp may be off by 3 + 2 |x| units of the last place: a power of two is taken off first, where that needs no
// care for infinities and for numbers next to 0. x = k ln 2 + rest, half = 2^k / 2.
struct Power { rest: f32, half: f32, inside: bool }
fn power_of_e(x: f32) -> Power {
    let inside = x > -86.5f && x < 88.7f;
    let k = select(0.0f, round(x * 1.44269504f), inside);
    return Power((x - k * LN2_HIGH) - k * LN2_LOW, bitcast<f32>(u32(i32(k) + 126) << 23u), inside);
}
fn exp_(x: f32) -> f32 {
    let p = power_of_e(x);
    let e = exp(p.rest);
    return select(e, e * p.half * 2.0f, p.inside);
}

fn expm1_near_0(x: f32) -> f32 {
    return x * (1.0f + x * (0.5f + x * (1.6666667e-1f + x * (4.1666668e-2f + x * (8.3333333e-3f
        + x * (1.3888889e-3f + x * 1.9841270e-4f))))));
}
fn expm1(x: f32) -> f32 {
    let p = power_of_e(x);
    let inside = (p.half * expm1_near_0(p.rest) + (p.half - 0.5f)) * 2.0f;
    return select(select(exp(x) - 1.0f, inside, p.inside), x, x == 0.0f);  // -0 stays
}

// log(1 + x) = 2 atanh(x / (2 + x)): a series where 1 + x would round x away, and WGSL's log is exact to 2^-21 only.
fn log1p(x: f32) -> f32 {
    let r = x / (2.0f + x);
    let s = r * r;
    let tail = 0.2f + s * (0.14285714f + s * (0.11111111f + s * 0.09090909f));
    let series = 2.0f * r * (1.0f + s * (0.33333333f + s * tail));
    return select(log(1.0f + x), series, x > -0.5f && x < 1.0f);
}

// x - 1 is exact where the series is used.
fn log_(x: f32) -> f32 { return select(log(x), log1p(x - 1.0f), x > 0.5f && x < 2.0f); }

fn tanh_(x: f32) -> f32 {
    let y = 2.0f * min(abs(x), 15.0f);
    let e = select(exp(y) - 1.0f, expm1_near_0(y), y < 0.35f);  // where it is large, the fraction is 1
    return select(sign(x) * e / (e + 2.0f), x, is_nan(x));
}

fn sigmoid(x: f32) -> f32 {
    let e = exp_(-abs(x));
    let large = 1.0f / (1.0f + e);
    return select(large, e * large, x < 0.0f);
}

fn softplus(x: f32) -> f32 { return max(x, 0.0f) + log1p(exp_(-abs(x))); }

// WGSL leaves pow of a negative base undefined, and may lose NaN and infinity. Those made here are not constants:
// browsers refuse such.
fn power(a: f32, b: f32) -> f32 {
    let odd = abs(b - 2.0f * floor(b * 0.5f)) == 1.0f;
    let nan = bitcast<f32>(0x7fc00000u | (bitcast<u32>(a) & 1u));
    let infinity = bitcast<f32>(0x7f7fffffu + u32(a == 0.0f));  // used where a is 0
    var size = select(pow(abs(a), b), infinity, a == 0.0f && b < 0.0f);
    size = select(size, 1.0f, b == 0.0f || abs(a) == 1.0f);
    let undefined = b < floor(b) || b > floor(b);
    let negative = select(select(size, -size, odd), nan, undefined && a < 0.0f && !is_inf(a));
    let known = select(size, negative, (bitcast<u32>(a) >> 31u) == 1u);
    return select(known, nan, (is_nan(a) && !(b == 0.0f)) || (is_nan(b) && !(a == 1.0f)));
}

// 1 where a is larger, 1/2 where equal, else 0; 1 where one is NaN, as in PyTorch.
fn share(a: f32, b: f32) -> f32 {
    return select(0.5f * (select(0.0f, 1.0f, a > b) + select(0.0f, 1.0f, a >= b)), 1.0f, is_nan(a) || is_nan(b));
}

fn gelu_tanh_slope(a: f32) -> f32 {
    let s = a * a;
    let t = tanh_(0.79788456f * a * (1.0f + 0.044715f * s));
    return 0.5f * (1.0f + t) + 0.5f * a * (1.0f - t * t) * (0.79788456f * (1.0f + 0.134145f * s));
}
