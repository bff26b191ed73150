KERNEL {
    const size_t i = (size_t)blockIdx.x * BLOCK + threadIdx.x;
    if (i < (size_t)p.N * p.M) out[i] = F(i / p.M == i % p.M ? 1 : 0);
}
