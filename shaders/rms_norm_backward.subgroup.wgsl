{% set subgroups = true %}
{% include "rms_norm_backward.wgsl" %}
