{% include "topk_forward.cu" %}
