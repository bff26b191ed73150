KERNEL {
    const size_t begin = ((size_t)blockIdx.x * BLOCK + threadIdx.x) * W;
    for (u32 j = 0; j < W; j++)
        if (begin + j < p.N) out[begin + j] = F({{ "p.value" if floating else "p.whole" }});
}
