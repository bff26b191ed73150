#include "lib/math.cuh"
#include "lib/vec.cuh"

__device__ __forceinline__ float act(float a) {
    if (activation == 0) return a * sigmoid(a);
    const float phi = activation == 1 ? erff(0.70710678f * a) : tanhf(0.79788456f * a * (1.f + 0.044715f * a * a));
    return 0.5f * a * (1.f + phi);
}

KERNEL {
    constexpr u32 n = C / W;
    const size_t i = (size_t)blockIdx.x * BLOCK + threadIdx.x;
    if (i >= (size_t)p.N * n) return;
    const size_t gate = 2 * (i / n) * n + i % n;
    store(out, i, vec_map(load(x, gate), act) * load(x, gate + n));
}
