// Reductions over a block of BLOCK threads (a multiple of 32, at most 1024); every thread gets the result.
#pragma once

__device__ __forceinline__ float warp_sum(float v) {
#pragma unroll
    for (int d = 16; d; d >>= 1) v += __shfl_xor_sync(ALL_LANES, v, d);
    return v;
}

__device__ __forceinline__ float warp_max(float v) {
#pragma unroll
    for (int d = 16; d; d >>= 1) v = fmaxf(v, __shfl_xor_sync(ALL_LANES, v, d));
    return v;
}

__device__ __forceinline__ float block_sum(float v) {
    __shared__ float parts[32];
    v = warp_sum(v);
    if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = v;
    __syncthreads();
    float total = warp_sum(threadIdx.x % 32 < BLOCK / 32 ? parts[threadIdx.x % 32] : 0.f);
    __syncthreads();  // before parts is used again
    return total;
}

__device__ __forceinline__ float2 block_sum(float2 v) {
    __shared__ float2 parts[BLOCK / 32];
    v = make_float2(warp_sum(v.x), warp_sum(v.y));
    if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = v;
    __syncthreads();
    float2 total = parts[0];
#pragma unroll
    for (u32 w = 1; w < BLOCK / 32; w++) total = make_float2(total.x + parts[w].x, total.y + parts[w].y);
    __syncthreads();  // before parts is used again
    return total;
}

__device__ __forceinline__ float block_max(float v) {
    __shared__ float parts[32];
    v = warp_max(v);
    if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = v;
    __syncthreads();
    float top = warp_max(threadIdx.x % 32 < BLOCK / 32 ? parts[threadIdx.x % 32] : -INFINITY);
    __syncthreads();
    return top;
}
