// Philox4x32-10: Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3", SC 2011.
#pragma once

struct Words { u32 w[4]; };

__device__ __forceinline__ Words philox(Words c, u32 k0, u32 k1) {
#pragma unroll
    for (int i = 0; i < 10; i++) {
        const u32 high0 = __umulhi(0xd2511f53u, c.w[0]), low0 = 0xd2511f53u * c.w[0];
        const u32 high1 = __umulhi(0xcd9e8d57u, c.w[2]), low1 = 0xcd9e8d57u * c.w[2];
        c = Words{high1 ^ c.w[1] ^ k0, low1, high0 ^ c.w[3] ^ k1, low0};
        k0 += 0x9e3779b9u;
        k1 += 0xbb67ae85u;
    }
    return c;
}

// The words of elements 4c ... 4c + 3 of a launch.
__device__ __forceinline__ Words random_words(const u32* state, u32 offset, u32 c) {
    const u32 low = state[2] + (offset + c);
    const u32 high = state[3] + (low < state[2] ? 1u : 0u);
    return philox(Words{low, high, 0u, 0u}, state[0], state[1]);
}
