#include "lib/math.cuh"
#include "lib/philox.cuh"

// One block. Each thread sums a segment of what the next token is drawn from; one finds its place.
KERNEL {
    __shared__ float rests[BLOCK], wholes[BLOCK];
    const u32 t = threadIdx.x, size = (p.V + BLOCK - 1) / BLOCK;
    const auto chance = [&](u32 i) { return float(random_words(state, p.offset, i / 4).w[i % 4] >> 8) * 0x1p-24f; };
    u32 taken = 0;
    for (; taken < p.Q; taken++) {
        const size_t at = (size_t)taken * p.V + max(tokens[taken], 0);
        if (tokens[taken] < 0 || is_nan(full[at]) || chance(taken) * draft[at] >= full[at]) break;
    }
    const float *own = full + (size_t)taken * p.V, *theirs = draft + (size_t)taken * p.V;
    float rest = 0.f, whole = 0.f;
    for (u32 v = t * size; v < min((t + 1) * size, p.V); v++) {
        if (taken < p.Q) rest += fmaxf(own[v] - theirs[v], 0.f);
        whole += own[v];
    }
    rests[t] = rest;
    wholes[t] = whole;
    __syncthreads();
    if (t > 0) return;
    float total = 0.f;
    for (u32 s = 0; s < BLOCK; s++) total += rests[s];
    const bool all = total == 0.f;  // drawn from p, not from what p has more than q
    if (all) for (u32 s = 0; s < BLOCK; s++) total += wholes[s];
    float goal = chance(p.Q) * total;
    u32 segment = 0, found = 0;
    for (u32 s = 0; s < BLOCK; s++) {
        const float mass = all ? wholes[s] : rests[s];
        if (mass <= 0.f) continue;
        segment = s;
        if (goal < mass) break;
        goal -= mass;
    }
    for (u32 v = segment * size; v < min((segment + 1) * size, p.V); v++) {
        const float mass = all ? own[v] : fmaxf(own[v] - theirs[v], 0.f);
        if (mass <= 0.f) continue;
        found = v;
        if (goal < mass) break;
        goal -= mass;
    }
    out[0] = !is_nan(own[0]) && (taken == p.Q || tokens[taken] >= 0) ? int(found) : -1;
    out[1] = int(taken);
    for (u32 i = 0; i < p.Q; i++) out[2 + i] = tokens[i];
    lengths[0] -= int(p.Q - taken);
    draft_lengths[0] -= int(p.Q - taken);
}
