"""Neural network layers with PyTorch's names, parameters and state-dict keys."""

import sys

from .. import functional
from . import init
from .attention import MultiheadAttention, TransformerBlock
from .cache import KVCache
from .containers import ModuleList, Sequential
from .layers import GELU, Dropout, Embedding, LayerNorm, Linear, ReLU, RMSNorm, SiLU
from .module import Module, Parameter

__all__ = [
    "GELU", "Dropout", "Embedding", "KVCache", "LayerNorm", "Linear", "Module", "ModuleList", "MultiheadAttention",
    "Parameter", "RMSNorm", "ReLU", "Sequential", "SiLU", "TransformerBlock", "functional", "init",
]

sys.modules[f"{__name__}.functional"] = functional  # so that `import dualml.nn.functional as F` finds it
