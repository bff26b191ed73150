#define ROW C
#include "lib/vec.cuh"

__device__ __forceinline__ float gelu(float a) {
    const float phi = approximate ? tanhf(0.79788456f * a * (1.f + 0.044715f * a * a)) : erff(0.70710678f * a);
    return 0.5f * a * (1.f + phi);
}

KERNEL {
    constexpr u32 n = C / VEC;
    const size_t i = (size_t)blockIdx.x * BLOCK + threadIdx.x;
    if (i >= (size_t)p.N * n) return;
    store(out, i, vec_map(load(x, i) + load(bias, i % n), gelu));
}
