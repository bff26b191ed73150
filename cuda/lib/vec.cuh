// vecf: W neighbours of a row, computed in float; the twin of WGSL's. One load and one store move all of them.
#pragma once

struct vecf { float v[W]; };

template <typename E> struct alignas(sizeof(E) * W) StoredVec { E v[W]; };

__device__ __forceinline__ vecf vec(float a) {
    vecf r;
#pragma unroll
    for (u32 i = 0; i < W; i++) r.v[i] = a;
    return r;
}

// `index` counts vectors, not elements.
template <typename E> __device__ __forceinline__ vecf load(const E* from, size_t index) {
    const StoredVec<E> s = ((const StoredVec<E>*)from)[index];
    vecf r;
#pragma unroll
    for (u32 i = 0; i < W; i++) r.v[i] = float(s.v[i]);
    return r;
}

template <typename E> __device__ __forceinline__ void store(E* to, size_t index, vecf a) {
    StoredVec<E> s;
#pragma unroll
    for (u32 i = 0; i < W; i++) s.v[i] = E(a.v[i]);
    ((StoredVec<E>*)to)[index] = s;
}

#define VEC_OPERATOR(op)                                                        \
    __device__ __forceinline__ vecf operator op(vecf a, vecf b) {               \
        for (u32 i = 0; i < W; i++) a.v[i] = a.v[i] op b.v[i];                  \
        return a;                                                               \
    }                                                                           \
    __device__ __forceinline__ vecf operator op(vecf a, float b) {              \
        for (u32 i = 0; i < W; i++) a.v[i] = a.v[i] op b;                       \
        return a;                                                               \
    }                                                                           \
    __device__ __forceinline__ vecf& operator op##=(vecf& a, vecf b) { return a = a op b; }
VEC_OPERATOR(+)
VEC_OPERATOR(-)
VEC_OPERATOR(*)
#undef VEC_OPERATOR

__device__ __forceinline__ float vec_sum(vecf a) {
    float s = a.v[0];
    for (u32 i = 1; i < W; i++) s += a.v[i];
    return s;
}

__device__ __forceinline__ float vec_max(vecf a) {
    float m = a.v[0];
    for (u32 i = 1; i < W; i++) m = fmaxf(m, a.v[i]);
    return m;
}

// The same function of every element.
template <typename Function> __device__ __forceinline__ vecf vec_map(vecf a, Function f) {
    for (u32 i = 0; i < W; i++) a.v[i] = f(a.v[i]);
    return a;
}
