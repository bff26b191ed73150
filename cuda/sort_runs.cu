// Each thread counts what comes before its element in its run: the better ones, and equal ones at earlier places.
#include "lib/order.cuh"

KERNEL {
    const size_t i = (size_t)blockIdx.x * BLOCK + threadIdx.x;
    if (i >= (size_t)p.R * p.C) return;
    const size_t base = i / p.C * p.C;
    const u32 at = u32(i - base), begin = at / p.length * p.length, own = key(x[i]);
    u32 place = begin;
    for (u32 j = begin; j < min(begin + p.length, p.C); j++) {
        const u32 other = key(x[base + j]);
        place += other > own || (other == own && j < at);
    }
    order[base + place] = int(at);
}
