// 16-bit floats: arithmetic in float32, rounded once, as CUDA's operators do.
#pragma once

struct __half {
    _Float16 v;
    __half() = default;
    __half(float f) : v(_Float16(f)) {}
    operator float() const { return float(v); }
};
struct __nv_bfloat16 {
    unsigned short v;
    __nv_bfloat16() = default;
    __nv_bfloat16(float f) {
        const unsigned u = __float_as_uint(f);
        v = f != f ? 0x7fff : (unsigned short)((u + 0x7fff + (u >> 16 & 1)) >> 16);
    }
    operator float() const { return __uint_as_float(unsigned(v) << 16); }
};

#define CUDA_CPU_16BIT(T, T2, NAME, NAME2, PAIR)                                  \
    struct alignas(4) T2 {                                                        \
        T x, y;                                                                   \
        T2() = default;                                                           \
        T2(T a, T b) : x(a), y(b) {}                                              \
    };                                                                            \
    inline T operator+(T a, T b) { return float(a) + float(b); }                  \
    inline T operator-(T a, T b) { return float(a) - float(b); }                  \
    inline T operator*(T a, T b) { return float(a) * float(b); }                  \
    inline T operator/(T a, T b) { return float(a) / float(b); }                  \
    inline T __float2##NAME(float f) { return f; }                                \
    inline T __float2##NAME##_rn(float f) { return f; }                           \
    inline float __##NAME##2float(T h) { return h; }                              \
    inline T2 __floats2##NAME2##_rn(float x, float y) { return {x, y}; }          \
    inline T2 __float2##NAME2##_rn(float x) { return {x, x}; }                    \
    inline float2 PAIR(T2 h) { return {h.x, h.y}; }                               \
    inline T __low2##NAME(T2 h) { return h.x; }                                   \
    inline T __high2##NAME(T2 h) { return h.y; }                                  \
    inline float __low2float(T2 h) { return h.x; }                                \
    inline float __high2float(T2 h) { return h.y; }
CUDA_CPU_16BIT(__half, __half2, half, half2, __half22float2)
CUDA_CPU_16BIT(__nv_bfloat16, __nv_bfloat162, bfloat16, bfloat162, __bfloat1622float2)
inline __half2 __halves2half2(__half x, __half y) { return {x, y}; }
inline __nv_bfloat162 __halves2bfloat162(__nv_bfloat16 x, __nv_bfloat16 y) { return {x, y}; }
inline unsigned short __half_as_ushort(__half h) { return cuda_cpu::bits<unsigned short>(h); }
inline __half __ushort_as_half(unsigned short u) { return cuda_cpu::bits<__half>(u); }
inline unsigned short __bfloat16_as_ushort(__nv_bfloat16 h) { return h.v; }
inline __nv_bfloat16 __ushort_as_bfloat16(unsigned short u) { return cuda_cpu::bits<__nv_bfloat16>(u); }
