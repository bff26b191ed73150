// Running sums over a block of BLOCK threads (a multiple of 32).
#pragma once

// The sum of this thread's and those of all before it; of all threads' in `total`.
__device__ __forceinline__ u32 running_sum(u32 sum, u32& total) {
    __shared__ u32 parts[BLOCK / 32];
    const u32 t = threadIdx.x;
#pragma unroll
    for (u32 d = 1; d < 32; d <<= 1) {
        const u32 more = __shfl_up_sync(ALL_LANES, sum, d);
        if (t % 32 >= d) sum += more;
    }
    if (t % 32 == 31) parts[t / 32] = sum;
    __syncthreads();
    total = 0;
    for (u32 w = 0; w < BLOCK / 32; w++) {
        if (w < t / 32) sum += parts[w];
        total += parts[w];
    }
    __syncthreads();  // before parts is used again
    return sum;
}
