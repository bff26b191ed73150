KERNEL {
    const u32 i = blockIdx.x * BLOCK + threadIdx.x;
    if (i < p.N) out[i] = F({{ "fmaf(float(i), p.step, p.start)" if floating else "p.first + int(i) * p.stride" }});
}
