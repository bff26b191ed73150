// How a reduction folds: what it computes in, how two values are joined, and how a block joins its threads' values.
#pragma once
#include "lib/group.cuh"

// What a dtype is computed in: float, or the integer itself.
template <class A> struct Compute { using type = float; };
template <> struct Compute<int> { using type = int; };
template <> struct Compute<u32> { using type = u32; };

struct Sum { template <class T> __device__ __forceinline__ T operator()(T a, T b) const { return a + b; } };
struct Prod { template <class T> __device__ __forceinline__ T operator()(T a, T b) const { return a * b; } };
// Not fmaxf and fminf: a NaN stays, as in PyTorch.
struct Max {
    template <class T> __device__ __forceinline__ T operator()(T a, T b) const { return a > b || a != a ? a : b; }
};
struct Min {
    template <class T> __device__ __forceinline__ T operator()(T a, T b) const { return a < b || a != a ? a : b; }
};

template <class T, class Join>
__device__ __forceinline__ T block_join(T v, Join join) {
    __shared__ T parts[BLOCK / 32];
#pragma unroll
    for (int d = 16; d; d >>= 1) v = join(v, __shfl_xor_sync(ALL_LANES, v, d));
    if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = v;
    __syncthreads();
    T made = parts[0];
#pragma unroll
    for (u32 w = 1; w < BLOCK / 32; w++) made = join(made, parts[w]);
    __syncthreads();
    return made;
}

// An element and its index in the row.
template <class T> struct Place { T top; int at; };

// Whether a is a better maximum (or minimum) than b; of equals the first wins, and NaN wins as in PyTorch.
template <bool MAX, class T>
__device__ __forceinline__ bool beats(Place<T> a, Place<T> b) {
    const bool equal = a.top == b.top || (a.top != a.top && b.top != b.top);
    if (equal) return a.at < b.at;
    return (MAX ? a.top > b.top : a.top < b.top) || a.top != a.top;
}

template <bool MAX, class T>
__device__ __forceinline__ Place<T> block_best(Place<T> v) {
    __shared__ T tops[BLOCK / 32];
    __shared__ int places[BLOCK / 32];
#pragma unroll
    for (int d = 16; d; d >>= 1) {
        const Place<T> other = {__shfl_xor_sync(ALL_LANES, v.top, d), __shfl_xor_sync(ALL_LANES, v.at, d)};
        if (beats<MAX>(other, v)) v = other;
    }
    if (threadIdx.x % 32 == 0) { tops[threadIdx.x / 32] = v.top; places[threadIdx.x / 32] = v.at; }
    __syncthreads();
    for (u32 w = 0; w < BLOCK / 32; w++) {
        const Place<T> other = {tops[w], places[w]};
        if (beats<MAX>(other, v)) v = other;
    }
    __syncthreads();
    return v;
}
