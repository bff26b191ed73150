// One block for all partial sums.
#include "lib/reduce.cuh"
#include "lib/vec.cuh"

KERNEL {
    vecf total = vec(0.f);
    for (u32 i = threadIdx.x; i < p.M / W; i += BLOCK) total += load(partial, i);
    const float sum = block_sum(vec_sum(total));
    if (threadIdx.x == 0) norm[0] = F(sqrtf(sum));
}
