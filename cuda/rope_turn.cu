#include "lib/vec.cuh"

KERNEL {
    constexpr u32 n = R / W;
    const size_t i = (size_t)blockIdx.x * BLOCK + threadIdx.x;  // the vector `column` of both halves of head `head`
    if (i >= (size_t)(p.M / 2) * n) return;
    const u32 column = i % n;
    const size_t head = i / n, low = 2 * head * n + column;
    const vecf a = load(x, low), b = load(x, low + n);
    if (head % heads >= turned) {
        store(out, low, a);
        store(out, low + n, b);
        return;
    }
    const size_t token = head / heads;
    int at = int(p.offset + u32(token % p.T));
    if (p.P == 1) at += starts[0];
    else if (p.P > 1) at += starts[token / p.T];
    if (at < 0 || at >= int(p.L / 2)) {
        store(out, low, vec(__int_as_float(0x7fc00000)));
        store(out, low + n, vec(__int_as_float(0x7fc00000)));
        return;
    }
    const size_t row = 2 * (size_t)at * n + column;
    const vecf c = load(table, row), s = load(table, row + n) * p.sign;
    store(out, low, a * c - b * s);
    store(out, low + n, b * c + a * s);
}
