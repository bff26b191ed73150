KERNEL {
    const u32 i = blockIdx.x * BLOCK + threadIdx.x;
    if (i >= p.B * p.T) return;
    const u32 first = u32(starts[i / p.T]) + i % p.T;
    x[i] = first < p.N ? tokens[first] : -1;
    y[i] = first + 1 < p.N ? tokens[first + 1] : -1;
}
