// The functions that expressions share with WGSL (shaders/lib/math.wgsl) and NumPy (dualml/ops/numpy_math.py).
#pragma once

__device__ __forceinline__ bool is_nan(float x) { return (__float_as_uint(x) & 0x7fffffffu) > 0x7f800000u; }
__device__ __forceinline__ bool is_inf(float x) { return (__float_as_uint(x) & 0x7fffffffu) == 0x7f800000u; }
__device__ __forceinline__ bool is_finite(float x) { return (__float_as_uint(x) & 0x7fffffffu) < 0x7f800000u; }
__device__ __forceinline__ bool not_(bool x) { return !x; }
__device__ __forceinline__ float select(float other, float then, bool condition) { return condition ? then : other; }
__device__ __forceinline__ int select(int other, int then, bool condition) { return condition ? then : other; }
__device__ __forceinline__ bool select(bool other, bool then, bool condition) { return condition ? then : other; }
__device__ __forceinline__ float sign_(float x) { return x > 0.f ? 1.f : x < 0.f ? -1.f : 0.f; }
__device__ __forceinline__ int sign_(int x) { return (x > 0) - (x < 0); }
// Not fmaxf and fminf: a NaN stays, as in PyTorch.
__device__ __forceinline__ float max_(float a, float b) { return a > b || a != a ? a : b; }
__device__ __forceinline__ float min_(float a, float b) { return a < b || a != a ? a : b; }
__device__ __forceinline__ int max_(int a, int b) { return a > b ? a : b; }
__device__ __forceinline__ int min_(int a, int b) { return a < b ? a : b; }
// Division that rounds down, as Python's // and % do. fmodf is exact, so that a quotient next to a whole one is right.
__device__ __forceinline__ float floor_mod(float a, float b) {
    const float r = fmodf(a, b);
    return r != 0.f && (r < 0.f) != (b < 0.f) ? r + b : r;
}
__device__ __forceinline__ float floor_div(float a, float b) {
    if (b == 0.f) return a / b;
    const float r = fmodf(a, b);
    return rintf((a - r) / b - (r != 0.f && (r < 0.f) != (b < 0.f) ? 1.f : 0.f));
}
// Of integers / 0 is 0, and the quotient by -1, which C leaves undefined for the least int, wraps.
__device__ __forceinline__ int floor_div(int a, int b) {
    if (b == 0 || b == -1) return (int)((u32)0 - (u32)a * (u32)(b != 0));
    return a / b - (a % b != 0 && (a < 0) != (b < 0));
}
__device__ __forceinline__ int floor_mod(int a, int b) {
    if (b == 0 || b == -1) return 0;
    const int r = a % b;
    return r != 0 && (r < 0) != (b < 0) ? r + b : r;
}
__device__ __forceinline__ float inverseSqrt(float x) { return rsqrtf(x); }
__device__ __forceinline__ float exp_(float x) { return expf(x); }
__device__ __forceinline__ float log_(float x) { return logf(x); }
__device__ __forceinline__ float tanh_(float x) { return tanhf(x); }
__device__ __forceinline__ float power(float a, float b) { return powf(a, b); }
__device__ __forceinline__ float sigmoid(float x) { return 1.f / (1.f + expf(-x)); }
__device__ __forceinline__ float softplus(float x) { return fmaxf(x, 0.f) + log1pf(expf(-fabsf(x))); }
__device__ __forceinline__ float share(float a, float b) { return 0.5f * ((a <= b ? 0.f : 1.f) + (a < b ? 0.f : 1.f)); }

__device__ __forceinline__ float gelu_tanh_slope(float a) {
    const float s = a * a, t = tanhf(0.79788456f * a * (1.f + 0.044715f * s));
    return 0.5f * (1.f + t) + 0.5f * a * (1.f - t * t) * (0.79788456f * (1.f + 0.134145f * s));
}
