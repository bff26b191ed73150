{% set floating = dict(spec.types)["F"].kind == "f" %}
KERNEL {
    const size_t i = (size_t)blockIdx.x * BLOCK + threadIdx.x, slice = (size_t)p.K * p.B;
    if (i >= p.A * slice) return;
    const u32 at = u32(index[i]);
    out[i] = at < p.D ? x[(i / slice * p.D + at) * p.B + i % p.B] : F({{ "__int_as_float(0x7fc00000)" if floating else "0" }});
}
