// Philox4x64-10: Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3", SC 2011. What NumPy calls Philox.
#pragma once
typedef unsigned long long u64;

struct Words64 { u64 w[4]; };

// The high half of a 64 x 64 bit product, from four products of 32-bit halves.
__device__ __forceinline__ u64 high_product(u64 a, u64 b) {
    const u64 al = u32(a), ah = a >> 32, bl = u32(b), bh = b >> 32;
    const u64 middle = ah * bl + (al * bl >> 32);
    const u64 other = al * bh + u32(middle);
    return ah * bh + (middle >> 32) + (other >> 32);
}

__device__ __forceinline__ Words64 philox64(Words64 c, u64 k0, u64 k1) {
    const u64 m0 = 0xd2e7470ee14c6c93ull, m1 = 0xca5a826395121157ull;
#pragma unroll
    for (int i = 0; i < 10; i++) {
        const u64 high0 = high_product(m0, c.w[0]), low0 = m0 * c.w[0];
        const u64 high1 = high_product(m1, c.w[2]), low1 = m1 * c.w[2];
        c = Words64{high1 ^ c.w[1] ^ k0, low1, high0 ^ c.w[3] ^ k1, low0};
        k0 += 0x9e3779b97f4a7c15ull;
        k1 += 0xbb67ae8584caa73bull;
    }
    return c;
}
