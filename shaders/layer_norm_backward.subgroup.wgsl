{% set subgroups = true %}
{% include "layer_norm_backward.wgsl" %}
