// A block per row joins its pieces; of equals the first in the row wins.
#include "lib/fold.cuh"
{% set MAX = "true" if sign == ">" else "false" %}

KERNEL {
    using T = Compute<F>::type;
    const size_t base = size_t(blockIdx.x) * p.S;
    Place<T> best = {T(x[base]), at[base]};
    for (u32 s = threadIdx.x; s < p.S; s += BLOCK) {
        const Place<T> v = {T(x[base + s]), at[base + s]};
        if (beats<{{ MAX }}>(v, best)) best = v;
    }
    best = block_best<{{ MAX }}>(best);
    if (threadIdx.x == 0) out[blockIdx.x] = best.at;
}
