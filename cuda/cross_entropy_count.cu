// One block for all rows.
#include "lib/reduce.cuh"

KERNEL {
    float kept = 0.f;
#pragma unroll 8
    for (u32 i = threadIdx.x; i < p.N; i += BLOCK) kept += targets[i] != p.ignore_index ? 1.f : 0.f;
    const float count = block_sum(kept);
    if (threadIdx.x == 0) scale[0] = F(count > 0.f ? 1.f / count : __int_as_float(0x7fc00000));
}
