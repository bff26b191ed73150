#include "lib/math.cuh"
#include "lib/vec.cuh"

__device__ __forceinline__ float act(float a) {
    if (activation == 0) return a * sigmoid(a);
    const float phi = activation == 1 ? erff(0.70710678f * a) : tanhf(0.79788456f * a * (1.f + 0.044715f * a * a));
    return 0.5f * a * (1.f + phi);
}

__device__ __forceinline__ float slope(float a) {
    if (activation == 0) {
        const float s = sigmoid(a);
        return s + a * s * (1.f - s);
    }
    if (activation == 2) return gelu_tanh_slope(a);
    return 0.5f * (1.f + erff(0.70710678f * a)) + a * 0.39894228f * expf(-0.5f * a * a);
}

KERNEL {
    constexpr u32 n = C / W;
    const size_t i = (size_t)blockIdx.x * BLOCK + threadIdx.x;
    if (i >= (size_t)p.N * n) return;
    const size_t gate = 2 * (i / n) * n + i % n;
    const vecf d = load(dout, i), a = load(x, gate), b = load(x, gate + n);
    store(dx, gate, d * b * vec_map(a, slope));
    store(dx, gate + n, d * vec_map(a, act));
}
