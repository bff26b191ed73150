{% set subgroups = true %}
{% include "rms_norm_forward.wgsl" %}
