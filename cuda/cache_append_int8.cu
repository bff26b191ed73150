#include "lib/vec.cuh"

// A row of a new key or value each.
KERNEL {
    constexpr u32 n = D / 4;
    const size_t i = (size_t)blockIdx.x * BLOCK + threadIdx.x;
    if (i >= (size_t)p.B * p.T * 2 * p.KVH) return;
    const u32 head = i % (2 * p.KVH);  // the keys' heads, then the values'
    const size_t token = i / (2 * p.KVH), b = token / p.T;
    const int at = lengths[b] + int(token % p.T);
    if (at < 0 || at >= int(p.S)) return;
    const size_t first = (token * (p.H + 2 * p.KVH) + p.H + head) * n;
    float top = 0.f;
    for (u32 c = 0; c < n; c++) {
        top = fmaxf(top, vec_max(vec_map(load(rows, first + c), [](float a) { return fabsf(a); })));
    }
    const float unit = top > 0.f ? top : 1.f;
    const size_t row = (b * p.S + at) * p.KVH + head % p.KVH;
    for (u32 c = 0; c < n; c++) {
        const vecf x = load(rows, first + c);
        u32 word = 0;
        for (u32 e = 0; e < 4; e++) word |= u32(int(floorf(x.v[e] / unit * 127.f + 0.5f)) & 255) << (8 * e);
        (head < p.KVH ? keys : values)[row * n + c] = word;
    }
    scales[head < p.KVH ? row : p.M + row] = top;
}
