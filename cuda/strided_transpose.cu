// One block per tile of 32 x 32, turned in shared memory, so that reads and writes both run along memory.
constexpr u32 TILE = 32;

KERNEL {
    __shared__ F tile[TILE * (TILE + 1)];
    constexpr u32 across = (N + TILE - 1) / TILE, down = (M + TILE - 1) / TILE;
    u32 g = blockIdx.x;
    const u32 n = g % across * TILE;
    g /= across;
    const u32 m = g % down * TILE;
    g /= down;
    const u32 i2 = g % n2, i1 = g / n2 % n1, i0 = g / n2 / n1;
    const F* from = x + p.start + ((long long)i0 * p.s0 + (long long)i1 * p.s1 + (long long)i2 * p.s2);
    F* to = out + ((size_t)i0 * p.o0 + (size_t)i1 * p.o1 + (size_t)i2 * p.o2);
    const u32 column = threadIdx.x % TILE;
    for (u32 r = threadIdx.x / TILE; r < TILE; r += BLOCK / TILE)
        if (m + r < M && n + column < N) tile[r * (TILE + 1) + column] = from[(long long)(m + r) * p.sm + n + column];
    __syncthreads();
    for (u32 r = threadIdx.x / TILE; r < TILE; r += BLOCK / TILE)
        if (n + r < N && m + column < M) to[(size_t)(n + r) * p.on + m + column] = tile[column * (TILE + 1) + r];
}
