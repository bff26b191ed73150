KERNEL {
    const u32 i = blockIdx.x * BLOCK + threadIdx.x;
    if (i >= p.N) return;
    out[i] = F(i < p.N - i ? p.start + float(i) * p.step : p.stop - float(p.N - 1 - i) * p.step);
}
