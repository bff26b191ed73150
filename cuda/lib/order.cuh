// Keys: unsigned images of the storage type's values, of which larger ones are better: they come first in the order
// that is asked for. -0 is like 0, and NaN counts as the largest.
#pragma once
#include "lib/fold.cuh"

__device__ __forceinline__ u32 ordered(u32 v) { return v; }
__device__ __forceinline__ u32 ordered(int v) { return u32(v) ^ 0x80000000u; }
__device__ __forceinline__ u32 ordered(float v) {
    const u32 bits = __float_as_uint(v);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return 0xffffffffu;
    return bits > 0x80000000u ? ~bits : bits | 0x80000000u;
}
__device__ __forceinline__ u32 key(F x) {
    const u32 k = ordered(Compute<F>::type(x));
    return largest ? k : ~k;
}
