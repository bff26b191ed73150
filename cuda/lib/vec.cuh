// vecf: neighbours of a row, computed in float; the twin of WGSL's. One load and one store move all of them.
#pragma once

// VEC of them: W as a rule. A kernel that says `#define ROW C` first (the length of the rows, a constant) has eight
// where F has 16 bits and rows divide by eight, so that a thread loads 16 bytes. F alone decides: fusion changes other
// types, and must not change the order of a sum.
#ifdef ROW
constexpr u32 VEC = sizeof(F) == 2 && ROW % 8 == 0 ? 8 : W;
#else
constexpr u32 VEC = W;
#endif

struct vecf { float v[VEC]; };

// Elements as they are stored; the hardware moves at most 16 bytes at once.
template <typename E> struct alignas(sizeof(E) * VEC < 16 ? sizeof(E) * VEC : 16) StoredVec { E v[VEC]; };

__device__ __forceinline__ vecf vec(float a) {
    vecf r;
#pragma unroll
    for (u32 i = 0; i < VEC; i++) r.v[i] = a;
    return r;
}

// `index` counts vectors, not elements.
template <typename E> __device__ __forceinline__ StoredVec<E> load_stored(const E* from, size_t index) {
    return ((const StoredVec<E>*)from)[index];
}

template <typename E> __device__ __forceinline__ vecf widen(const StoredVec<E>& s) {
    vecf r;
#pragma unroll
    for (u32 i = 0; i < VEC; i++) r.v[i] = float(s.v[i]);
    return r;
}

template <typename E> __device__ __forceinline__ vecf load(const E* from, size_t index) {
    return widen(load_stored(from, index));
}

template <typename E> __device__ __forceinline__ void store_stored(E* to, size_t index, StoredVec<E> s) {
    ((StoredVec<E>*)to)[index] = s;
}

template <typename E> __device__ __forceinline__ void store(E* to, size_t index, vecf a) {
    StoredVec<E> s;
#pragma unroll
    for (u32 i = 0; i < VEC; i++) s.v[i] = E(a.v[i]);
    store_stored(to, index, s);
}

#define VEC_OPERATOR(op)                                                        \
    __device__ __forceinline__ vecf operator op(vecf a, vecf b) {               \
        for (u32 i = 0; i < VEC; i++) a.v[i] = a.v[i] op b.v[i];              \
        return a;                                                               \
    }                                                                           \
    __device__ __forceinline__ vecf operator op(vecf a, float b) {              \
        for (u32 i = 0; i < VEC; i++) a.v[i] = a.v[i] op b;                   \
        return a;                                                               \
    }                                                                           \
    __device__ __forceinline__ vecf& operator op##=(vecf& a, vecf b) { return a = a op b; }
VEC_OPERATOR(+)
VEC_OPERATOR(-)
VEC_OPERATOR(*)
#undef VEC_OPERATOR

__device__ __forceinline__ float vec_sum(vecf a) {
    float s = a.v[0];
    for (u32 i = 1; i < VEC; i++) s += a.v[i];
    return s;
}

__device__ __forceinline__ float vec_max(vecf a) {
    float m = a.v[0];
    for (u32 i = 1; i < VEC; i++) m = fmaxf(m, a.v[i]);
    return m;
}

// The same function of every element.
template <typename Function> __device__ __forceinline__ vecf vec_map(vecf a, Function f) {
    for (u32 i = 0; i < VEC; i++) a.v[i] = f(a.v[i]);
    return a;
}
