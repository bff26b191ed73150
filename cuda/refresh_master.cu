#include "lib/vec.cuh"

KERNEL {
    const u32 n = p.N / W, begin = blockIdx.x * 4 * BLOCK + threadIdx.x;
#pragma unroll
    for (u32 k = 0; k < 4; k++) {
        const u32 i = begin + k * BLOCK;
        if (i >= n) return;
        const vecf x = load(param, i);
        vecf kept = load(master, i);
        bool far = false;
#pragma unroll
        for (u32 e = 0; e < W; e++) {
            if (fabsf(kept.v[e] - x.v[e]) <= fabsf(x.v[e]) * p.near + 2.98023223876953125e-8f) continue;
            kept.v[e] = x.v[e];
            far = true;
        }
        if (far) store(master, i, kept);  // as a rule there is nothing to write
    }
}
