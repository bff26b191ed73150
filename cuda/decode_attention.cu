#include "lib/decode.cuh"

KERNEL {
    decode(rows, lengths, out, lse, p, [&](size_t row, u32 c) { return load(keys, row * (D / 4) + c); },
           [&](size_t row, u32 c) { return load(values, row * (D / 4) + c); });
}
