// The maximum of a row and the sum of exp(element - maximum), in one pass.
#pragma once
#include "lib/reduce.cuh"
#include "lib/vec.cuh"

constexpr float LOWEST = -3.4028234e38f;  // where a maximum starts

// Takes elements into a running maximum and sum, which is rescaled when it meets a larger element.
__device__ __forceinline__ void meet(vecf v, float& top, float& sum) {
    const float higher = fmaxf(top, vec_max(v));
    sum *= expf(top - higher);
#pragma unroll
    for (u32 w = 0; w < W; w++) sum += expf(v.v[w] - higher);
    top = higher;
}
