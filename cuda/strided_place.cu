{% set steps = [t0, t1, t2, t3, t4, t5] %}
{% set sizes = [0, n1, n2, n3, n4, n5] %}
// Each element of out asks whether x has something for it. A begin after the coordinate wraps around to a place that is
// beyond every count, so one comparison checks both ends.
#include "lib/strides.cuh"

KERNEL {
    using G = Group<F, W>;
    const size_t total = p.n0 * INNER;
    for (u32 u = threadIdx.x; u < 256; u += BLOCK) {
        const size_t i = (size_t)blockIdx.x * 256 + u;
        if (i >= total) return;
        const u32 outer = u32(i / INNER);
{% if n1 * n2 * n3 * n4 * n5 > 1 %}
        u32 rest = u32(i - (size_t)outer * INNER);
{% endif %}
        long long at = p.start;
        bool inside = true;
{% for d in range(5, -1, -1) if d == 0 or sizes[d] > 1 %}
        const u32 q{{ d }} = {{ "outer" if d == 0 else "rest % n" ~ d }} - p.b{{ d }};
        inside = inside && q{{ d }} % t{{ d }} == 0 && q{{ d }} / t{{ d }} < p.m{{ d }};
        at += (long long)(q{{ d }} / t{{ d }}) * p.s{{ d }};
{% if d > 0 %}
        rest /= n{{ d }};
{% endif %}
{% endfor %}
        G found;
        for (u32 j = 0; j < W; j++) found.v[j] = F(0);
        if (inside) found = ((const G*)x)[at];
        ((G*)out)[i] = found;
    }
}
