KERNEL {
    const size_t begin = ((size_t)blockIdx.x * BLOCK + threadIdx.x) * W;
    const u32 row = u32(begin / (N ? N : 1));
    if (begin >= (size_t)p.R * M * N) return;
    const int column = int(begin - (size_t)row * N), edge = int(row % (M ? M : 1)) + p.diagonal;
    for (int j = 0; j < int(W); j++) {
        out[begin + j] = column + j {{ ">=" if upper else "<=" }} edge ? x[begin + j] : F(0);
    }
}
