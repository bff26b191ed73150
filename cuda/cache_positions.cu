KERNEL {
    const u32 i = blockIdx.x * BLOCK + threadIdx.x;
    if (i < p.B * p.T) out[i] = lengths[i / p.T] + int(i % p.T);
}
