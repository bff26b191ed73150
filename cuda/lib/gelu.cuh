// gelu and gelu_slope, its derivative: by erf, or (`approximate`) by tanh.
#pragma once
#include "lib/math.cuh"

__device__ __forceinline__ float gelu(float a) {
    const float phi = approximate ? tanhf(0.79788456f * a * (1.f + 0.044715f * a * a)) : erff(0.70710678f * a);
    return 0.5f * a * (1.f + phi);
}

__device__ __forceinline__ float gelu_slope(float a) {
    if (approximate) return gelu_tanh_slope(a);
    return 0.5f * (1.f + erff(0.70710678f * a)) + a * 0.39894228f * expf(-0.5f * a * a);
}
