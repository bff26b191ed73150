// How matmul.mma.cu ends: what becomes of the sums in `acc`, by `epilogue`. Included as a template, in the kernel.
    // Results go through shared memory, so that 16 bytes are moved at a time: each warp has a place for its part.
    F* const mine = stages + warp * OWN_ROWS * OWN_COLS;
    const auto pairs = [&](const auto& work) {  // work(where two neighbours belong, their two sums)
#pragma unroll
        for (u32 i = 0; i < OWN_ROWS * OWN_COLS / 64; i++) {
            const u32 t = i / (OWN_COLS / 4), j = i / 2 % (OWN_COLS / 8), h = i % 2;
            work((u32*)(mine + place<OWN_COLS>(t * 16 + h * 8 + lane / 4, j) + lane % 4 * 2), acc[t][j][2 * h],
                 acc[t][j][2 * h + 1]);
        }
    };
    const auto each = [&](const auto& work) {  // work(where eight neighbours lie, and in a tensor like out; how many)
#pragma unroll 4
        for (u32 e = lane; e < OWN_ROWS * OWN_COLS / 8; e += 32) {
            const u32 r = e / (OWN_COLS / 8), c = e % (OWN_COLS / 8), y = row + own_row + r, x = col + own_col + c * 8;
            if (y < p.M && x < p.N)
                work(mine + place<OWN_COLS>(r, c), ((size_t)batch * p.M + y) * p.N + x, min(8u, p.N - x));
        }
    };
    const auto move = [&](F* to, const F* from, u32 count) {
        if (p.N % 8 == 0)
            *(uint4*)to = *(const uint4*)from;
        else
            for (u32 i = 0; i < count; i++) to[i] = from[i];
    };
{% if epilogue == "gelu_backward" %}
    each([&](F* to, size_t at, u32 count) { move(to, pre + at, count); });
    __syncwarp();
    pairs([](u32* at, float low, float high) {
        const float2 x = unpack<F>(*at);
        *at = pack<F>(low * gelu_slope(x.x), high * gelu_slope(x.y));
    });
{% else %}
    pairs([](u32* at, float low, float high) { *at = pack<F>(low, high); });
{% endif %}
    __syncwarp();
{% if epilogue == "gelu" %}
    // Of pre as it is stored: with all sums still held, erf would need more registers than there are.
    each([&](const F* from, size_t at, u32 count) { move(pre + at, from, count); });
    __syncwarp();
    each([](F* here, size_t, u32) {
#pragma unroll
        for (u32 i = 0; i < 4; i++) {
            const float2 x = unpack<F>(((const u32*)here)[i]);
            ((u32*)here)[i] = pack<F>(gelu(x.x), gelu(x.y));
        }
    });
    __syncwarp();
{% endif %}
    each([&](const F* from, size_t at, u32 count) { move(out + at, from, count); });
{% if epilogue == "sums" %}
#pragma unroll
    for (u32 i = 0; i < OWN_ROWS / 8; i++) {
        float v = of_a[i / 2][i % 2];  // the four lanes of a row have parts of it
        v += __shfl_xor_sync(~0u, v, 1);
        v += __shfl_xor_sync(~0u, v, 2);
        const u32 y = row + own_row + i * 8 + lane / 4;
        if (adds && lane % 4 == 0 && y < p.M) sums[y] = F(v);
    }
{% endif %}
