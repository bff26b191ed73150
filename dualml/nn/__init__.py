"""Neural network layers with PyTorch's names, parameters and state-dict keys."""

import sys
from typing import TYPE_CHECKING

from .. import functional
from . import init, utils
from .attention import MultiheadAttention, TransformerBlock
from .cache import KVCache
from .containers import ModuleList, Sequential
from .layers import (
    GELU,
    Dropout,
    Embedding,
    Flatten,
    Identity,
    LayerNorm,
    Linear,
    ReLU,
    RMSNorm,
    Sigmoid,
    SiLU,
    Softmax,
    Tanh,
)
from .losses import BCEWithLogitsLoss, CrossEntropyLoss, L1Loss, MSELoss, NLLLoss
from .missing import no_layer
from .module import Module, Parameter

__all__ = [
    "GELU", "BCEWithLogitsLoss", "CrossEntropyLoss", "Dropout", "Embedding", "Flatten", "Identity", "KVCache",
    "L1Loss", "LayerNorm", "Linear", "MSELoss", "Module", "ModuleList", "MultiheadAttention", "NLLLoss",
    "Parameter", "RMSNorm", "ReLU", "Sequential", "SiLU", "Sigmoid", "Softmax", "Tanh", "TransformerBlock",
    "functional", "init", "utils",
]

if not TYPE_CHECKING:
    def __getattr__(name):
        raise no_layer("nn", name)

sys.modules[f"{__name__}.functional"] = functional  # so that `import dualml.nn.functional as F` finds it
