// One block for all partial sums.
#include "lib/reduce.cuh"

KERNEL {
    float total = 0.f;
    for (u32 i = threadIdx.x; i < p.M; i += BLOCK) total += float(partial[i]);
    const float sum = block_sum(total);
    if (threadIdx.x == 0) norm[0] = F(sqrtf(sum));
}
