// dx = dy - exp(y) * sum(dy), a block per row.
#include "lib/reduce.cuh"
#include "lib/vec.cuh"

KERNEL {
    const u32 t = threadIdx.x, n = p.C / W;
    const size_t base = size_t(blockIdx.x) * n;
    vecf part = vec(0.f);
    for (u32 c = t; c < n; c += BLOCK) part += load(dy, base + c);
    const float sum = block_sum(vec_sum(part));
    for (u32 c = t; c < n; c += BLOCK) {
        const vecf share = vec_map(load(y, base + c), [=](float v) { return expf(v) * sum; });
        store(dx, base + c, load(dy, base + c) - share);
    }
}
