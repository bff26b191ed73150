{% set broadcast = false %}
{% include "lib/matmul_tile.wgsl" %}
