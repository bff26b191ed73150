// total += value
KERNEL {
    const u32 first = (blockIdx.x * BLOCK + threadIdx.x) * W;
    if (first >= p.N) return;
#pragma unroll
    for (u32 i = first; i < first + W; i++) total[i] = F(float(total[i]) + float(value[i]));
}
