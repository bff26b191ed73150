{% include "bias_gelu_backward.cu" %}
