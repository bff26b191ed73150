#include "lib/vec.cuh"
{% set types = dict(spec.types) %}
{% set from_float = types["X"].kind == "f" %}
{% set to = types["Y"] %}

__device__ __forceinline__ Y convert(X x, const Params& p) {
{% if to.kind == "b" %}
    return {{ "float(x) != 0.f" if from_float else "x != 0" }};
{% elif from_float and to.kind == "i" %}
    return Y(fminf(fmaxf(float(x), p.low), p.high));
{% elif from_float or to.kind == "f" %}
    return Y(float(x));
{% else %}
    return Y(x);
{% endif %}
}

KERNEL {
    const size_t i = (size_t)blockIdx.x * BLOCK + threadIdx.x;
    if (i >= p.N / W) return;
    const StoredVec<X> from = load_stored(x, i);
    StoredVec<Y> made;
#pragma unroll
    for (u32 e = 0; e < W; e++) made.v[e] = convert(from.v[e], p);
    store_stored(out, i, made);
}
