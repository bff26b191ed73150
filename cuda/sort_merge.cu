// Two neighbouring runs become one: each thread counts by binary search what its element passes in the other run. An
// element of the left run passes what is better, one of the right run what is as good, too.
#include "lib/order.cuh"

KERNEL {
    const size_t i = (size_t)blockIdx.x * BLOCK + threadIdx.x;
    if (i >= (size_t)p.R * p.C) return;
    const size_t base = i / p.C * p.C;
    const u32 at = u32(i - base), middle = min(at / (2 * p.length) * (2 * p.length) + p.length, p.C);
    const bool left = at < middle;
    const u32 begin = left ? middle : middle - p.length, own = key(x[base + order[i]]);
    u32 low = begin, high = left ? min(middle + p.length, p.C) : middle;  // how far the other run is passed
    while (low < high) {
        const u32 place = (low + high) / 2, other = key(x[base + order[base + place]]);
        if (other > own || (other == own && !left)) low = place + 1; else high = place;
    }
    merged[base + (left ? at : at - p.length) + low - begin] = order[i];
}
