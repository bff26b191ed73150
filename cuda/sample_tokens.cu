// One block per row. The row is cut into segments, whose masses are summed into the bins: the number drawn picks a
// segment, and in it a token.
#include "lib/philox.cuh"
#include "lib/sampling.cuh"

KERNEL {
    __shared__ u32 bins[BINS];
    constexpr u32 size = (n + BINS - 1) / BINS;
    const u32 row = blockIdx.x, t = threadIdx.x;
    const size_t base = (size_t)row * V;
    Row r = {logits + base, seen + base, settings, bins};
    if (!r.filter()) {
        if (t == 0) token[row] = -1;
        return;
    }
    for (u32 s = t; s < BINS; s += BLOCK) {
        u32 sum = 0;
#pragma unroll 4
        for (u32 c = s * size; c < min((s + 1) * size, n); c++) r.each(c, [&](float x, u32) { sum += r.mass(x); });
        bins[s] = sum;
    }
    const u32 total = r.settle();
    u32 goal = 0;  // temperature 0: the first of those that are kept
    if (settings[0] > 0.f) {
        const Words words = random_words(state, p.offset, row / 4);
        const u32 low = row % 2 ? words.w[1] : words.w[0], high = row % 2 ? words.w[3] : words.w[2];
        goal = __umulhi(row % 4 < 2 ? low : high, total);
    }
    const Place segment = r.find(goal);
    if (t > 0) return;
    u32 rest = segment.rest;
    int at = -1;
    for (u32 c = segment.bin * size; c < n && at < 0; c++) {
        r.each(c, [&](float x, u32 place) {
            const u32 m = r.mass(x);
            if (at < 0 && rest < m) at = int(place);
            rest -= m;
        });
    }
    token[row] = at;
    if (at >= 0) seen[base + at] = 1;
}
