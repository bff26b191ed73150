// dx = y * (dy - sum(y * dy)), a block per row.
#include "lib/reduce.cuh"
#include "lib/vec.cuh"

KERNEL {
    const u32 t = threadIdx.x, n = p.C / W;
    const size_t base = size_t(blockIdx.x) * n;
    vecf part = vec(0.f);
    for (u32 c = t; c < n; c += BLOCK) part += load(y, base + c) * load(dy, base + c);
    const vecf dot = vec(block_sum(vec_sum(part)));
    for (u32 c = t; c < n; c += BLOCK) store(dx, base + c, load(y, base + c) * (load(dy, base + c) - dot));
}
