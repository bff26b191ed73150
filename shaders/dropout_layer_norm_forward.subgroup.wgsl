{% set subgroups = true %}
{% include "dropout_layer_norm_forward.wgsl" %}
