// Each thread counts what comes before its own index: the smaller ones, and the equal ones at earlier positions.
struct alignas(4 * W) Indices { int v[W]; };

KERNEL {
    const u32 i = blockIdx.x * BLOCK + threadIdx.x;
    if (i >= p.N) return;
    const int own = indices[i];
    u32 place = 0;
#pragma unroll 4
    for (u32 j = 0; j < p.N / W; j++) {
        const Indices other = ((const Indices*)indices)[j];
#pragma unroll
        for (u32 e = 0; e < W; e++) place += (other.v[e] < own) | ((other.v[e] == own) & (j * W + e < i));
    }
    order[place] = int(i);
    sorted[place] = own;
}
