#include "lib/philox.cuh"

KERNEL {
    const size_t i = (size_t)blockIdx.x * BLOCK + threadIdx.x;
    if (i >= (size_t)p.R * p.S) return;
    const int* sums = running + i / p.S * p.C;
    const int total = p.C ? sums[p.C - 1] : 0;
    if (total <= 0) {
        out[i] = -1;
        return;
    }
    const Words r = random_words(state, p.offset, u32(i / 4));  // asked for by name: an index would need local memory
    const u32 word = i % 2 ? (i % 4 == 1 ? r.w[1] : r.w[3]) : (i % 4 == 0 ? r.w[0] : r.w[2]);
    const int goal = int(__umulhi(word, u32(total)));
    u32 low = 0, high = p.C - 1;  // the first running sum above goal is in low ... high
    while (low < high) {
        const u32 middle = (low + high) / 2;
        if (sums[middle] > goal) high = middle; else low = middle + 1;
    }
    out[i] = int(low);
}
