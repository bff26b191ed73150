// A block per piece of a row. All start from the piece's first element, and of equals the first in the row wins.
#include "lib/fold.cuh"
{% set MAX = "true" if sign == ">" else "false" %}

KERNEL {
    using T = Compute<F>::type;
    const u32 s = blockIdx.x % p.S, t = threadIdx.x, n = p.K / W, more = n % p.S;
    const u32 begin = s * (n / p.S) + (s < more ? s : more), end = begin + n / p.S + (s < more);
    const auto* xr = (const Group<F, W>*)x + size_t(blockIdx.x / p.S) * n;
    Place<T> best = {T(xr[begin].v[0]), int(begin * W)};
    for (u32 c = begin + t; c < end; c += BLOCK) {
        const auto group = xr[c];
#pragma unroll
        for (u32 w = 0; w < W; w++) {
            const Place<T> v = {T(group.v[w]), int(c * W + w)};
            if (beats<{{ MAX }}>(v, best)) best = v;
        }
    }
    best = block_best<{{ MAX }}>(best);
    if (t == 0) { top[blockIdx.x] = F(best.top); out[blockIdx.x] = best.at; }
}
