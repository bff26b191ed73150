"""dualml: one tensor, two GPU worlds. Train on CUDA, on WebGPU, or on the CPU, with one definition of the model.

    import dualml as dm
    dm.set_backend("webgpu")
    x = dm.randn(4, 8, requires_grad=True)
    dm.nn.functional.layer_norm(x, (8,)).sum().backward()
"""

from . import amp, autograd, debug, errors, functional, nn, optim, random
from .autograd import checkpoint, enable_grad, grad, gradcheck, is_grad_enabled, no_grad
from .creation import (
    arange,
    empty,
    eye,
    from_dlpack,
    full,
    full_like,
    linspace,
    ones,
    ones_like,
    rand,
    rand_like,
    randint,
    randn,
    randn_like,
    randperm,
    tensor,
    zeros,
    zeros_like,
)
from .dtypes import DType, bfloat16, bool_, float16, float32, float64, int32
from .functional import cat, maximum, minimum, stack, where
from .profile import memory, profile
from .programs import capture
from .random import manual_seed
from .runtime import get_backend, set_backend, use_backend
from .tensor import Tensor

__version__ = "0.1.0"
bool = bool_  # as in PyTorch: dm.bool names the dtype

__all__ = [
    "DType", "Tensor", "amp", "arange", "autograd", "bfloat16", "bool", "bool_", "capture", "cat", "checkpoint",
    "debug", "empty", "enable_grad", "errors", "eye", "float16", "float32", "float64", "from_dlpack", "full",
    "full_like", "functional", "get_backend", "grad", "gradcheck", "int32", "is_grad_enabled", "linspace",
    "manual_seed", "maximum", "memory", "minimum", "nn", "no_grad", "ones", "ones_like", "optim", "profile", "rand",
    "rand_like", "randint", "randn", "randn_like", "random", "randperm", "set_backend", "stack", "tensor",
    "use_backend", "where", "zeros", "zeros_like",
]
