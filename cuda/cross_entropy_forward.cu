// One block per row, which is read once.
#include "lib/cross_entropy.cuh"

KERNEL {
    const u32 row = blockIdx.x, n = L / VEC;
    const size_t base = (size_t)row * n;
    Seen seen;
#pragma unroll 4
    for (u32 c = threadIdx.x; c < WITH_CLASSES; c += BLOCK) seen.meet(load(logits, base + c), c);
    const Whole made = whole(seen);
    if (threadIdx.x > 0) return;
    const Label label(targets[row], p.ignore_index);
    loss[row] = loss_of(label, made, float(logits[base * VEC + (label.is_class ? label.at : 0)]));
    lse[row] = made.lse;
}
