#include "lib/philox64.cuh"

__device__ __forceinline__ u64 whole(const u32* halves) { return halves[0] | (u64)halves[1] << 32; }

KERNEL {
    const u64 seed = whole(state), stream = whole(state + 2), number = whole(state + 4);
    __syncthreads();  // all have read the state
    if (threadIdx.x == 0) {
        state[4] = u32(number + 1);
        state[5] = u32((number + 1) >> 32);
    }
    for (u32 c = threadIdx.x; c < (p.B + 3) / 4; c += BLOCK) {
        const Words64 r = philox64(Words64{c + 1ull, 0ull, 0ull, number}, seed, stream);
        for (u32 j = 0; j < 4; j++) {
            if (4 * c + j < p.B) starts[4 * c + j] = int(__umulhi(u32(r.w[j] >> 32), p.places));
        }
    }
}
