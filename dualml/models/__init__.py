"""Models built from dualml.nn. One definition runs on every backend."""

from .bert import Bert, BertConfig
from .gpt import GPT, PRESETS, GPTConfig
from .llama import Llama, LlamaConfig
from .pretrained import from_pretrained, save_pretrained
from .sampling import SamplingOptions

__all__ = ["GPT", "PRESETS", "Bert", "BertConfig", "GPTConfig", "Llama", "LlamaConfig", "SamplingOptions",
           "from_pretrained", "save_pretrained"]
