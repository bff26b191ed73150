// Walks over memory with strides; n1 ... n5 are constants of the kernel that includes this.
#pragma once

#include "lib/group.cuh"

constexpr size_t INNER = (size_t)n1 * n2 * n3 * n4 * n5;

// Where element i of an array of n0 x ... x n5 lies in memory that is walked with strides s0 ... s4 and `last`.
__device__ __forceinline__ size_t strided_offset(size_t i, const Params& p, long long last) {
    const size_t outer = i / INNER;
    u32 rest = u32(i - outer * INNER);
    long long at = (long long)p.start + (long long)outer * p.s0;
    if (n5 > 1) { at += (rest % n5) * last; rest /= n5; }
    if (n4 > 1) { at += (long long)(rest % n4) * p.s4; rest /= n4; }
    if (n3 > 1) { at += (long long)(rest % n3) * p.s3; rest /= n3; }
    if (n2 > 1) { at += (long long)(rest % n2) * p.s2; rest /= n2; }
    return at + (long long)rest * p.s1;
}
