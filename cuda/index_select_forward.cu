{% set floating = dict(spec.types)["F"].kind == "f" %}
KERNEL {
    const size_t begin = ((size_t)blockIdx.x * BLOCK + threadIdx.x) * W;
    const size_t row = begin / (B ? B : 1);
    if (row >= (size_t)p.A * p.K) return;
    const u32 from = u32(index[row % p.K]);
    const size_t source = (row / p.K * p.D + from) * B + (begin - row * B);
    for (u32 j = 0; j < W; j++) out[begin + j] = from < p.D ? x[source + j] : F({{ "__int_as_float(0x7fc00000)" if floating else "0" }});
}
