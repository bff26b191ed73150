#include "lib/vec.cuh"

KERNEL {
    constexpr u32 n = C / W;
    const size_t i = (size_t)blockIdx.x * BLOCK + threadIdx.x;
    if (i >= (size_t)p.N * n) return;
    const int index = indices[i / n];
    const bool inside = index >= 0 && index < int(p.V);
    const auto row = inside ? load(weight, (size_t)index * n + i % n) : vec(__int_as_float(0x7fc00000));
    store(out, i, row + load(added, i % ((size_t)p.L * n)));
}
