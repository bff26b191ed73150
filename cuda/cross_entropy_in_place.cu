// One block per row, which is read once and held in registers until its gradient can be made; a row too long for them
// is read again, from a cache. A thread touches its own elements alone.
#include "lib/cross_entropy.cuh"

constexpr u32 COUNT = L / VEC, PASSES = (COUNT + BLOCK - 1) / BLOCK;
constexpr bool HELD = PASSES * VEC * sizeof(F) <= 128;

template <class Work>
__device__ __forceinline__ void each(const StoredVec<F>* own, const StoredVec<F>* held, Work work) {
    if constexpr (HELD) {
#pragma unroll
        for (u32 i = 0; i < PASSES; i++)
            if (i * BLOCK + threadIdx.x < COUNT) work(load((const F*)held, i), i * BLOCK + threadIdx.x);
    } else {
#pragma unroll 4
        for (u32 c = threadIdx.x; c < COUNT; c += BLOCK) work(load((const F*)own, c), c);
    }
}

KERNEL {
    const u32 row = blockIdx.x;
    StoredVec<F>* const own = (StoredVec<F>*)logits + (size_t)row * COUNT;
    const Label label(targets[row], p.ignore_index);
    const u32 at = label.is_class ? label.at : 0;
    const bool owner = at / VEC % BLOCK == threadIdx.x;  // of the class's logit
    const float logit = owner ? float(own[at / VEC].v[at % VEC]) : 0.f;
    StoredVec<F> held[HELD ? PASSES : 1];
    if constexpr (HELD)
#pragma unroll
        for (u32 i = 0; i < PASSES; i++)
            if (i * BLOCK + threadIdx.x < COUNT) held[i] = own[i * BLOCK + threadIdx.x];
    Seen seen;
    each(own, held, [&](vecf v, u32 c) {
        if (c < WITH_CLASSES) seen.meet(v, c);
    });
    const Whole made = whole(seen);
    if (owner) loss[row] = loss_of(label, made, logit);
    const float share = dloss[row < p.D ? row : p.D - 1] * scale[0];
    each(own, held, [&](vecf v, u32 c) { store((F*)own, c, gradient_of(v, c, label, made.lse, share)); });
}
