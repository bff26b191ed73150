// Two normal numbers from two words, by the polynomials of shaders/lib/normal.wgsl: the same numbers on every backend.
#pragma once

// -ln(n / 2^24) for n from 1 to 2^24: n = m 2^e with m in [0.7, 1.4], ln m = 2 atanh((m - 1) / (m + 1)).
__device__ __forceinline__ float minus_log(u32 n) {
    const int shift = __clz(int(n));
    const float whole = float((n << shift) >> 8) * 1.1920929e-7f;  // m in [1, 2)
    const bool above = whole > 1.4142135f;
    const float m = above ? whole * 0.5f : whole;
    const int e = (above ? 32 : 31) - shift;
    const float s = (m - 1.f) / (m + 1.f), z = s * s;
    return float(24 - e) * 0.6931472f - s * (2.f + z * (0.6666682f + z * (0.3997485f + z * 0.2992439f)));
}

// cos and sin of the angle k / 2^24 of a turn: a quarter turn, and the rest within half a quarter.
__device__ __forceinline__ void cos_sin(u32 k, float& cosine, float& sine) {
    const u32 quarter = (k + (1u << 21)) >> 22;
    const float r = float(int(k) - int(quarter << 22)) * 2.3841858e-7f, z = r * r;
    const float c = 1.f + z * (-1.2337005f + z * (0.2536692f + z * (-0.02086007f + z * 9.0362807e-4f)));
    const float s = r * (1.5707964f + z * (-0.6459641f + z * (0.07969258f + z * (-0.0046812664f + z * 1.5820628e-4f))));
    const float x = quarter & 1 ? s : c, y = quarter & 1 ? c : s;
    cosine = (quarter + 1) & 2 ? -x : x;
    sine = quarter & 2 ? -y : y;
}

__device__ __forceinline__ void normal_pair(u32 a, u32 b, float* out) {
    const float radius = sqrtf(2.f * minus_log((a >> 8) + 1));
    float cosine, sine;
    cos_sin(b >> 8, cosine, sine);
    out[0] = radius * cosine;
    out[1] = radius * sine;
}
