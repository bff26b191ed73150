#define ROW C
#include "lib/gelu.cuh"
#include "lib/vec.cuh"

KERNEL {
    constexpr u32 n = C / VEC;
    const size_t i = (size_t)blockIdx.x * BLOCK + threadIdx.x;
    if (i >= (size_t)p.N * n) return;
    store(dx, i, load(dout, i) * vec_map(load(x, i) + load(bias, i % n), gelu_slope));
}
