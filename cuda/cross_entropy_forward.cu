// One block per row, which is read once: each thread rescales its sum whenever it meets a larger value.
#include "lib/reduce.cuh"
#include "lib/vec.cuh"

KERNEL {
    const u32 row = blockIdx.x, t = threadIdx.x, n = V / W;
    const size_t base = (size_t)row * n;
    float top = -3.4e38f, sum = 0.f, plain = 0.f;
#pragma unroll 4
    for (u32 c = t; c < n; c += BLOCK) {
        const vecf v = load(logits, base + c);
        const float high = vec_max(v);
        if (high > top) {
            sum *= expf(top - high);
            top = high;
        }
        sum += vec_sum(vec_map(v, [&](float a) { return expf(a - top); }));
        plain += vec_sum(v);
    }
    const float row_top = block_max(top);
    const float total = row_top + logf(block_sum(sum * expf(top - row_top)));
    const float mean = smoothing > 0.f ? block_sum(plain) / float(V) : 0.f;
    if (t > 0) return;
    const int label = targets[row];
    const bool is_class = label >= 0 && label < int(V);
    const float nll = total - float(logits[base * W + (is_class ? label : 0)]);
    const float value = smoothing > 0.f ? nll + smoothing * (total - mean - nll) : nll;
    loss[row] = label == p.ignore_index ? 0.f : is_class ? value : __int_as_float(0x7fc00000);
    lse[row] = total;
}
