#include "lib/decode.cuh"
#undef AT_ONCE
#define AT_ONCE , 8

// Four signed bytes as fractions of 127, times the row's scale.
__device__ __forceinline__ vecf unpack(u32 word, float scale) {
    vecf r;
#pragma unroll
    for (u32 e = 0; e < 4; e++) r.v[e] = float((signed char)(word >> (8 * e))) * (scale / 127.f);
    return r;
}

KERNEL {
    decode(rows, lengths, out, lse, p,
           [&](size_t row, u32 c) { return unpack(keys[row * (D / 4) + c], scales[row]); },
           [&](size_t row, u32 c) { return unpack(values[row * (D / 4) + c], scales[p.M + row]); });
}
