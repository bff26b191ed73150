// Each block has neighbouring vectors.
#include "lib/reduce.cuh"
#include "lib/vec.cuh"

KERNEL {
    const u32 n = p.N / W, size = (n + p.S - 1) / p.S, begin = blockIdx.x * size;
    const u32 end = begin + size < n ? begin + size : n;
    float total = 0.f;
#pragma unroll 4
    for (u32 i = begin + threadIdx.x; i < end; i += BLOCK) {
        const vecf v = load(x, i);
        total += vec_sum(v * v);
    }
    const float sum = block_sum(total);
    if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}
