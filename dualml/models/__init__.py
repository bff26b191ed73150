"""Models built from dualml.nn. One definition runs on every backend."""

from .gpt import GPT, PRESETS, GPTConfig
from .sampling import sample_token

__all__ = ["GPT", "PRESETS", "GPTConfig", "sample_token"]
