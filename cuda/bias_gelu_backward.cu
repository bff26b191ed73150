#define ROW C
#include "lib/math.cuh"
#include "lib/vec.cuh"

__device__ __forceinline__ float slope(float a) {
    if (approximate) return gelu_tanh_slope(a);
    return 0.5f * (1.f + erff(0.70710678f * a)) + a * 0.39894228f * expf(-0.5f * a * a);
}

KERNEL {
    constexpr u32 n = C / VEC;
    const size_t i = (size_t)blockIdx.x * BLOCK + threadIdx.x;
    if (i >= (size_t)p.N * n) return;
    store(dx, i, load(dout, i) * vec_map(load(x, i) + load(bias, i % n), slope));
}
