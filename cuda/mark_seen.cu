// One block per row. A thread has every BLOCK-th token id to itself, so that no two write the same place.
KERNEL {
    const size_t row = blockIdx.x;
#pragma unroll 8
    for (size_t i = row * p.T; i < (row + 1) * p.T; i++) {
        const u32 token = tokens[i];  // a negative one is too large then
        if (token < p.V && token % BLOCK == threadIdx.x) seen[row * p.V + token] = 1;
    }
}
