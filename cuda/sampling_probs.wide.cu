{% include "sampling_probs.cu" %}
