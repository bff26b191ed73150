KERNEL {
    const u32 i = blockIdx.x * BLOCK + threadIdx.x;
    if (i < p.B) lengths[i] += p.steps;
}
