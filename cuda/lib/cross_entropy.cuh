// One row of a cross entropy, shared out among a block's threads: L logits, of which the first V stand for classes.
#pragma once
#define ROW L
#include "lib/reduce.cuh"
#include "lib/vec.cuh"

constexpr u32 WITH_CLASSES = (V + VEC - 1) / VEC;  // vectors

// Vector c of something, with another value where there is no class.
__device__ __forceinline__ vecf classes(vecf v, u32 c, float other) {
    if constexpr (V < L)
#pragma unroll
        for (u32 i = 0; i < VEC; i++)
            if (c * VEC + i >= V) v.v[i] = other;
    return v;
}

// What a thread has seen of the row; its sum is rescaled whenever it meets a larger value.
struct Seen {
    float top = -3.4e38f, sum = 0.f, plain = 0.f;

    __device__ __forceinline__ void meet(vecf v, u32 c) {
        const float high = vec_max(classes(v, c, -3.4e38f));
        if (high > top) {
            sum *= expf(top - high);
            top = high;
        }
        const float highest = top;
        sum += vec_sum(classes(vec_map(v, [&](float a) { return expf(a - highest); }), c, 0.f));
        plain += vec_sum(classes(v, c, 0.f));
    }
};

// Log-sum-exp and mean (where it is needed) of what all threads have seen.
struct Whole { float lse, mean; };
__device__ __forceinline__ Whole whole(const Seen& seen) {
    const float top = block_max(seen.top);
    const float lse = top + logf(block_sum(seen.sum * expf(seen.top - top)));
    return {lse, smoothing > 0.f ? block_sum(seen.plain) / float(V) : 0.f};
}

struct Label {
    int at;
    bool ignored, is_class;
    __device__ __forceinline__ Label(int label, int ignore_index)
        : at(label), ignored(label == ignore_index), is_class(label >= 0 && label < int(V)) {}
};

// The row's loss; `logit` is that of its class.
__device__ __forceinline__ float loss_of(const Label& label, const Whole& row, float logit) {
    const float nll = row.lse - logit;
    const float value = smoothing > 0.f ? nll + smoothing * (row.lse - row.mean - nll) : nll;
    return label.ignored ? 0.f : label.is_class ? value : __int_as_float(0x7fc00000);
}

// Vector c of the row's gradient; `share` is what the row weighs in all.
__device__ __forceinline__ vecf gradient_of(vecf e, u32 c, const Label& label, float lse, float share) {
    const float factor = label.is_class ? share : __int_as_float(0x7fc00000);
#pragma unroll
    for (u32 i = 0; i < VEC; i++) {
        const float hit = int(c * VEC + i) == label.at ? 1.f - smoothing : 0.f;
        e.v[i] = label.ignored ? 0.f : (expf(e.v[i] - lse) - smoothing / float(V) - hit) * factor;
    }
    return classes(e, c, 0.f);
}
