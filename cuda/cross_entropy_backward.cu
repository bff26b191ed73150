// One block per row.
#include "lib/vec.cuh"

KERNEL {
    const u32 row = blockIdx.x, n = V / W;
    const size_t base = (size_t)row * n;
    const float l = lse[row];
    const int label = targets[row];
    const bool ignored = label == p.ignore_index, is_class = label >= 0 && label < int(V);
    const float factor = is_class ? dloss[row < p.D ? row : p.D - 1] * scale[0] : __int_as_float(0x7fc00000);
#pragma unroll 4
    for (u32 c = threadIdx.x; c < n; c += BLOCK) {
        vecf e = load(logits, base + c);
#pragma unroll
        for (u32 i = 0; i < W; i++) {
            const float hit = int(c * W + i) == label ? 1.f - smoothing : 0.f;
            e.v[i] = ignored ? 0.f : (expf(e.v[i] - l) - smoothing / float(V) - hit) * factor;
        }
        store(dlogits, base + c, e);
    }
}
