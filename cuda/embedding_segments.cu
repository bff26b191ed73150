// Binary search for the first place whose index is not below v.
KERNEL {
    const u32 v = blockIdx.x * BLOCK + threadIdx.x;
    if (v > p.V) return;
    u32 low = 0, high = p.N;
    while (low < high) {
        const u32 middle = (low + high) / 2;
        if (sorted[middle] < int(v)) low = middle + 1; else high = middle;
    }
    first[v] = int(low);
}
