{% include "bias_gelu_forward.cu" %}
