// Which tokens of a row may be drawn: those above a threshold, which is found without sorting. Logits are ordered by
// keys, unsigned images of the floats; probabilities count in units of 2^-31, in integers: sums need no fixed order.
#pragma once
#include "lib/group.cuh"
#include "lib/reduce.cuh"
#include "lib/running_sum.cuh"
#include "lib/vec.cuh"

constexpr u32 n = V / W;
constexpr u32 BITS = V > 4096 ? 11 : 8;   // of a key, looked at in one pass
constexpr u32 BINS = 1u << BITS;
constexpr u32 SHARE = (BINS + BLOCK - 1) / BLOCK;
constexpr u32 LOWEST = 0x00800000u;       // key of the lowest finite float: minus infinity is never drawn
constexpr u32 HIGHEST = 0xff7fffffu;      // and of the highest
constexpr float UNITS = 2147483648.f;

struct Place { u32 bin, rest; };

// Ordered like the floats, -0 like 0, NaN above all.
__device__ __forceinline__ u32 key(float x) {
    const u32 bits = __float_as_uint(x);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return 0xffffffffu;
    return bits > 0x80000000u ? ~bits : bits | 0x80000000u;
}

__device__ __forceinline__ u32 block_top(u32 v) {
    __shared__ u32 tops[BLOCK / 32];
#pragma unroll
    for (int d = 16; d; d >>= 1) v = max(v, __shfl_xor_sync(ALL_LANES, v, d));
    if (threadIdx.x % 32 == 0) tops[threadIdx.x / 32] = v;
    __syncthreads();
    for (u32 w = 0; w < BLOCK / 32; w++) v = max(v, tops[w]);
    __syncthreads();
    return v;
}

struct Row {
    const F* logits;      // of this row, like seen
    const u32* seen;
    const float* settings;
    u32* bins;            // shared, empty whenever a pass begins
    u32 threshold;        // key of the smallest logit that may be drawn
    u32 before, through;  // running sums of the bins up to this thread's, and with them
    float penalty, reward, top, inverse, scale;  // reward: 1 / penalty; inverse: of the temperature; scale: to units

    // Calls f(logit after the repetition penalty, token) for W tokens.
    template <class Function> __device__ __forceinline__ void each(u32 c, Function f) const {
        const vecf x = load(logits, c);
        Group<u32, W> marks = {};
        if (penalty != 1.f) marks = ((const Group<u32, W>*)seen)[c];
#pragma unroll
        for (u32 w = 0; w < W; w++) {
            const float factor = x.v[w] > 0.f ? reward : penalty;
            f(marks.v[w] ? x.v[w] * factor : x.v[w], c * W + w);
        }
    }
    template <class Function> __device__ __forceinline__ void whole(Function f) const {
#pragma unroll 4
        for (u32 c = threadIdx.x; c < n; c += BLOCK) each(c, f);
    }
    __device__ __forceinline__ float weight(float x) const {
        return key(x) >= threshold ? expf((x - top) * inverse) : 0.f;
    }
    __device__ __forceinline__ u32 mass(float x) const { return u32(weight(x) * scale + 0.5f); }

    // Running sums of the bins, by thread. Returns the sum of all.
    __device__ __forceinline__ u32 settle() {
        const u32 t = threadIdx.x;
        __syncthreads();
        u32 sum = 0, total;
        for (u32 b = t * SHARE; b < (t + 1) * SHARE && b < BINS; b++) sum += bins[b];
        through = running_sum(sum, total);
        before = through - sum;
        return total;
    }

    // After settle: the bin in which the running sum passes `goal`, and how far into it goal lies. Empties the bins.
    __device__ __forceinline__ Place find(u32 goal) {
        __shared__ Place found;
        if (goal >= before && goal < through) {
            u32 b = threadIdx.x * SHARE, rest = goal - before;
            for (; rest >= bins[b]; b++) rest -= bins[b];
            found = {b, rest};
        }
        __syncthreads();
        for (u32 b = threadIdx.x * SHARE; b < (threadIdx.x + 1) * SHARE && b < BINS; b++) bins[b] = 0;
        const Place here = found;
        __syncthreads();
        return here;
    }

    // The key of the last of the `count` largest logits; if part > 0, of the largest that have that part of the mass.
    __device__ __forceinline__ u32 select_key(u32 count, float part) {
        u32 rest = 0, prefix = 0, mask = 0;
        for (u32 left = 32; left > 0;) {
            const u32 last = (1u << min(BITS, left)) - 1;
            left -= min(BITS, left);
            whole([&](float x, u32) {
                const u32 k = key(x);
                if (((k ^ prefix) & mask) || k < threshold) return;
                const u32 amount = part > 0.f ? mass(x) : 1u;
                if (amount) atomicAdd(&bins[last - (k >> left & last)], amount);
            });
            const u32 total = settle();
            if (!mask) rest = min(max(part > 0.f ? u32(part * float(total)) : count, 1u), total) - 1;
            const Place place = find(rest);
            prefix |= (last - place.bin) << left;
            mask |= last << left;
            rest = place.rest;
        }
        return prefix;
    }

    // Sets threshold and what mass() needs. Returns whether the row is usable: no NaN, nothing infinite but -infinity.
    __device__ __forceinline__ bool filter() {
        for (u32 b = threadIdx.x; b < BINS; b += BLOCK) bins[b] = 0;  // the next barrier is block_top's
        penalty = settings[4];
        reward = 1.f / penalty;
        u32 k = 0;
        whole([&](float x, u32) { k = max(k, key(x)); });
        threshold = block_top(k);  // temperature 0: the likeliest, which weigh 1 unit each
        top = __uint_as_float(threshold >= 0x80000000u ? threshold ^ 0x80000000u : ~threshold);
        inverse = 0.f;
        scale = 1.f;
        if (threshold < LOWEST || threshold > HIGHEST) return false;
        if (!(settings[0] > 0.f)) return true;
        threshold = LOWEST;
        inverse = fminf(1.f / settings[0], 1e30f);
        if (settings[1] > 0.f && settings[1] < float(V)) threshold = max(LOWEST, select_key(u32(settings[1]), 0.f));
        float sum = 0.f;
        whole([&](float x, u32) { sum += weight(x); });
        scale = UNITS / block_sum(sum);
        if (settings[2] < 1.f) threshold = max(threshold, select_key(0, settings[2]));
        if (settings[3] > 0.f) threshold = max(threshold, key(top + settings[0] * logf(settings[3])));
        return true;
    }
};
