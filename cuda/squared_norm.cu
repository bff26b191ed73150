// Each block has neighbouring vectors of one array.
#include "lib/reduce.cuh"
#include "lib/vec.cuh"

KERNEL {
    const u32 g = blockIdx.x, k = (g >= p.S1) + (g >= p.S2) + (g >= p.S3);
    const F* x = k == 0 ? x0 : k == 1 ? x1 : k == 2 ? x2 : x3;
    const u32 n = (k == 0 ? p.N0 : k == 1 ? p.N1 : k == 2 ? p.N2 : p.N3) / W;
    const u32 start = k == 0 ? 0 : k == 1 ? p.S1 : k == 2 ? p.S2 : p.S3;
    const u32 pieces = (k == 0 ? p.S1 : k == 1 ? p.S2 : k == 2 ? p.S3 : p.S) - start, size = (n + pieces - 1) / pieces;
    const u32 begin = (g - start) * size, end = begin + size < n ? begin + size : n;
    float total = 0.f;
#pragma unroll 4
    for (u32 i = begin + threadIdx.x; i < end; i += BLOCK) {
        const vecf v = load(x, i);
        total += vec_sum(v * v);
    }
    const float sum = block_sum(total);
    if (threadIdx.x == 0) partial[g] = sum;
}
