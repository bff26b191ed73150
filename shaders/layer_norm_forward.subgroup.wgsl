{% set subgroups = true %}
{% include "layer_norm_forward.wgsl" %}
