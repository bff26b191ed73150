// One block for all rows.
#include "lib/reduce.cuh"

KERNEL {
    float sum = 0.f, kept = 0.f;
#pragma unroll 8
    for (u32 i = threadIdx.x; i < p.N; i += BLOCK) {
        sum += float(loss[i]);
        kept += targets[i] != p.ignore_index ? 1.f : 0.f;
    }
    const float all = block_sum(sum), count = block_sum(kept);
    const float factor = !mean ? 1.f : count > 0.f ? 1.f / count : __int_as_float(0x7fc00000);
    if (threadIdx.x == 0) { total[0] = F(all * factor); scale[0] = F(factor); }
}
