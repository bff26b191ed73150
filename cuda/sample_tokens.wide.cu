{% include "sample_tokens.cu" %}
