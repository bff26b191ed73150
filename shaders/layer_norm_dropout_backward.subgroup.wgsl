{% set subgroups = true %}
{% include "layer_norm_dropout_backward.wgsl" %}
