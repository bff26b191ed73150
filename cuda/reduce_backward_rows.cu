// A block per piece of a row; what the whole row shares is read once.
#include "lib/math.cuh"
#include "lib/vec.cuh"
{% set shared = names | reject("equalto", "x") | list %}

__device__ __forceinline__ float rule({% for name in names %}float {{ name }}, {% endfor %}const Params& p) {
    const float zero = 0.f, one = 1.f;
    return {{ rule }};
}

KERNEL {
    const u32 s = blockIdx.x % p.S, t = threadIdx.x, n = p.K / W, more = n % p.S;
    const u32 begin = s * (n / p.S) + (s < more ? s : more), end = begin + n / p.S + (s < more);
    const size_t row = blockIdx.x / p.S;
{% for name in shared %}
    const float row_{{ name }} = float({{ name }}[row]);
{% endfor %}
    for (u32 c = begin + t; c < end; c += BLOCK) {
        const vecf old = {{ "load(x, row * n + c)" if "x" in names else "vec(0.f)" }};
        store(dx, row * n + c, vec_map(old, [&](float v) {
            return rule({% for name in names %}{{ "v" if name == "x" else "row_" ~ name }}, {% endfor %}p);
        }));
    }
}
