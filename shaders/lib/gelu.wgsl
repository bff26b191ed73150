{#- gelu and gelu_slope, its derivative: by erf, or (`approximate`) by tanh. -#}
{% include "lib/math.wgsl" %}

fn gelu(a: f32) -> f32 {
{% if approximate %}
    return 0.5f * a * (1.0f + tanh_(0.79788456f * a * (1.0f + 0.044715f * a * a)));
{% else %}
    return 0.5f * a * (1.0f + erf(0.70710678f * a));
{% endif %}
}

fn gelu_slope(a: f32) -> f32 {
{% if approximate %}
    return gelu_tanh_slope(a);
{% else %}
    return 0.5f * (1.0f + erf(0.70710678f * a)) + a * 0.39894228f * exp(-0.5f * a * a);
{% endif %}
}
