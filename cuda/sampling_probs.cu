// One block per row. Temperature 0 gives all to the first of the likeliest tokens.
#include "lib/sampling.cuh"

KERNEL {
    __shared__ u32 bins[BINS];
    const size_t base = (size_t)blockIdx.x * V;
    Row r = {logits + base, seen + base, settings, bins};
    const bool usable = r.filter(), greedy = !(settings[0] > 0.f);
    u32 ahead = 0;  // of the end of the row
    if (greedy) r.whole([&](float x, u32 place) { if (r.weight(x) > 0.f) ahead = max(ahead, V - place); });
    const u32 first = greedy ? V - block_top(ahead) : 0;
    float sum = 0.f;
    r.whole([&](float x, u32) { sum += r.weight(x); });
    const float share = 1.f / block_sum(sum);
    r.whole([&](float x, u32 place) {
        const float value = greedy ? (place == first ? 1.f : 0.f) : r.weight(x) * share;
        probs[base + place] = usable ? value : __int_as_float(0x7fc00000);
    });
}
