KERNEL {
    const size_t i = (size_t)blockIdx.x * BLOCK + threadIdx.x;
    if (i >= (size_t)p.B * p.T) return;
    const int token = tokens[i];
    if (token >= 0 && token < int(p.V)) seen[i / p.T * p.V + token] = 1;
}
