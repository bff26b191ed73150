// One block per row, tile by tile; each thread has ITEMS neighbours of a tile.
{% set T = {"f": "float"}.get(dict(spec.types)["F"].kind, dict(spec.types)["F"].cuda) %}
using T = {{ T }};
constexpr u32 ITEMS = 8;

KERNEL {
    __shared__ T sums[BLOCK / 32];
    const u32 t = threadIdx.x;
    x += (size_t)blockIdx.x * p.C;
    out += (size_t)blockIdx.x * p.C;
    T before = T(0);
    for (u32 tile = 0; tile < p.C; tile += BLOCK * ITEMS) {
        const u32 begin = tile + t * ITEMS, end = min(begin + ITEMS, p.C);
        T sum = T(0);
        for (u32 i = begin; i < end; i++) sum += T(x[reverse ? p.C - 1 - i : i]);
        T through = sum;
#pragma unroll
        for (u32 d = 1; d < 32; d <<= 1) {
            const T more = __shfl_up_sync(ALL_LANES, through, d);
            if (t % 32 >= d) through += more;
        }
        if (t % 32 == 31) sums[t / 32] = through;
        T running = __shfl_up_sync(ALL_LANES, through, 1);
        if (t % 32 == 0) running = T(0);
        __syncthreads();
        T warps = T(0), total = T(0);
        for (u32 w = 0; w < BLOCK / 32; w++) {
            warps += w < t / 32 ? sums[w] : T(0);
            total += sums[w];
        }
        running += before + warps;
        for (u32 i = begin; i < end; i++) {
            const u32 at = reverse ? p.C - 1 - i : i;
            running += T(x[at]);
            out[at] = F(running);
        }
        before += total;
        __syncthreads();
    }
}
