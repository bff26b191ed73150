#include "lib/vec.cuh"

// A vector of a new key or value each.
KERNEL {
    constexpr u32 n = D / W;
    const size_t i = (size_t)blockIdx.x * BLOCK + threadIdx.x;
    if (i >= (size_t)p.B * p.T * 2 * p.KVH * n) return;
    const u32 column = i % n, head = i / n % (2 * p.KVH);  // the keys' heads, then the values'
    const size_t token = i / n / (2 * p.KVH), b = token / p.T;
    const int at = lengths[b] + int(token % p.T);
    if (at < 0 || at >= int(p.S)) return;
    const vecf x = load(rows, (token * (p.H + 2 * p.KVH) + p.H + head) * n + column);
    const size_t place = ((b * p.S + at) * p.KVH + head % p.KVH) * n + column;
    if (head < p.KVH) store(keys, place, x);
    else store(values, place, x);
}
