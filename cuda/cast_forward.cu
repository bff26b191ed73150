{% set types = dict(spec.types) %}
{% set from_float = types["X"].kind == "f" %}
{% set to = types["Y"] %}
KERNEL {
    const size_t begin = ((size_t)blockIdx.x * BLOCK + threadIdx.x) * W;
    for (size_t i = begin; i < begin + W && i < p.N; i++) {
{% if to.kind == "b" %}
        out[i] = {{ "float(x[i]) != 0.f" if from_float else "x[i] != 0" }};
{% elif from_float and to.kind == "i" %}
        out[i] = Y(fminf(fmaxf(float(x[i]), p.low), p.high));
{% elif from_float or to.kind == "f" %}
        out[i] = Y(float(x[i]));
{% else %}
        out[i] = Y(x[i]);
{% endif %}
    }
}
