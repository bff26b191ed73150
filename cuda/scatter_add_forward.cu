// Of the k that share an index the first adds the values of all, in order.
KERNEL {
    const size_t i = (size_t)blockIdx.x * BLOCK + threadIdx.x, slice = (size_t)p.K * p.B;
    if (i >= p.A * slice) return;
    const u32 at = u32(index[i]);
    if (at >= p.D) return;
    const size_t a = i / slice;
    float total = float(values[i]);
    if (!unique) {
        for (size_t j = a * slice + i % p.B; j < i; j += p.B) if (u32(index[j]) == at) return;
        for (size_t j = i + p.B; j < (a + 1) * slice; j += p.B) if (u32(index[j]) == at) total += float(values[j]);
    }
    F* place = x + (a * p.D + at) * p.B + i % p.B;
    *place = F(float(*place) + total);
}
