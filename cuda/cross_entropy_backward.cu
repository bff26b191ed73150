// One block per row.
#include "lib/cross_entropy.cuh"

KERNEL {
    const u32 row = blockIdx.x, n = L / VEC;
    const size_t base = (size_t)row * n;
    const float l = lse[row], share = dloss[row < p.D ? row : p.D - 1] * scale[0];
    const Label label(targets[row], p.ignore_index);
#pragma unroll 4
    for (u32 c = threadIdx.x; c < n; c += BLOCK)
        store(dlogits, base + c, gradient_of(load(logits, base + c), c, label, l, share));
}
