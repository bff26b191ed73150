// A block has BLOCK vectors of the columns and walks over rows s, s + S, ...; each thread keeps its columns' sums of
// dx, and loads the next row before it computes this one: the arithmetic takes as long as the memory.
#define ROW C
#undef AT_ONCE
#define AT_ONCE , {{ 768 // BLOCK or 1 }}
#include "lib/gelu.cuh"
#include "lib/vec.cuh"

KERNEL {
    constexpr u32 n = C / VEC, ACROSS = (n + BLOCK - 1) / BLOCK;
    const u32 s = blockIdx.x / ACROSS, c = blockIdx.x % ACROSS * BLOCK + threadIdx.x;
    if (c >= n) return;
    const vecf shift = load(bias, c);
    vecf sums = vec(0.f);
    if (s < p.N) {
        size_t i = (size_t)s * n + c;
        auto d = load_stored(dout, i), a = load_stored(x, i);
        for (u32 row = s; row < p.N; row += p.S) {
            const size_t at = i;
            if (row + p.S < p.N) i += (size_t)p.S * n;  // the last row is loaded once more: no branch around the loads
            const auto next_d = load_stored(dout, i), next_a = load_stored(x, i);
            const vecf made = widen(d) * vec_map(widen(a) + shift, gelu_slope);
            store(dx, at, made);
            if (P) sums += made;
            d = next_d, a = next_a;
        }
    }
    if (P) store(partial, (size_t)s * n + c, sums);
}
