{% set broadcast = true %}
{% include "lib/matmul_tile.wgsl" %}
