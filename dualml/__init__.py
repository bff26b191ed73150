"""dualml: one tensor, two GPU worlds. Train on CUDA, on WebGPU, or on the CPU, with one definition of the model.

    import dualml as dm
    dm.set_backend("webgpu")
    x = dm.randn(4, 8, requires_grad=True)
    dm.nn.functional.layer_norm(x, (8,)).sum().backward()
"""

from importlib import import_module
from typing import TYPE_CHECKING

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
from .einsum import einsum
from .functional import cat, maximum, minimum, stack, where
from .memory import memory, memory_by_origin, memory_trace
from .profile import profile
from .programs import capture, load_program
from .random import manual_seed
from .runtime import get_backend, set_backend, use_backend
from .saving import load, save
from .tensor import Tensor
from .tensor_functions import (
    abs,
    all,
    allclose,
    amax,
    amin,
    any,
    argmax,
    argmin,
    argsort,
    broadcast_to,
    ceil,
    chunk,
    clamp,
    clone,
    cos,
    cumsum,
    erf,
    exp,
    expm1,
    flatten,
    flip,
    floor,
    floor_divide,
    from_numpy,
    gather,
    index_select,
    isfinite,
    isinf,
    isnan,
    log,
    log1p,
    log_softmax,
    logsumexp,
    masked_fill,
    matmul,
    max,
    mean,
    min,
    multinomial,
    norm,
    numel,
    permute,
    pow,
    prod,
    reciprocal,
    relu,
    remainder,
    reshape,
    rsqrt,
    sigmoid,
    sign,
    sin,
    softmax,
    sort,
    split,
    sqrt,
    square,
    squeeze,
    std,
    sum,
    tanh,
    topk,
    transpose,
    tril,
    triu,
    unsqueeze,
    var,
)

_ABOVE = ("data", "models", "text", "train")  # packages that are imported when first asked for
_ELSEWHERE = {
    "cuda": "dm.set_backend('auto') takes CUDA where it can be had; `dualml devices` tells what there is.",
    "device": "A tensor has a backend instead of a device: dm.tensor(x, backend='webgpu'), dm.set_backend('webgpu').",
    "set_default_device": "Use dm.set_backend.",
    "compile": "Use dm.capture for a training step.",
}

if not TYPE_CHECKING:
    def __getattr__(name):
        if name in _ABOVE:
            return import_module(f".{name}", __name__)
        hint = f" {_ELSEWHERE[name]}" if name in _ELSEWHERE else ""
        raise errors.MissingNameError(f"[dualml] there is no dm.{name}.{hint}", name=name)

__version__ = "0.1.0"
bool = bool_  # as in PyTorch: dm.bool names the dtype
float, double, half, int, long = float32, float64, float16, int32, int32

__all__ = [
    "DType", "Tensor", "abs", "all", "allclose", "amax", "amin", "amp", "any", "arange", "argmax", "argmin",
    "argsort", "autograd", "bfloat16", "bool", "bool_", "broadcast_to", "capture", "cat", "ceil", "checkpoint",
    "chunk", "clamp", "clone", "cos", "cumsum", "debug", "einsum", "empty", "enable_grad", "erf", "errors", "exp",
    "expm1", "eye", "flatten", "flip", "float16", "float32", "float64", "floor", "floor_divide", "from_dlpack",
    "from_numpy", "full", "full_like", "functional", "gather", "get_backend", "grad", "gradcheck", "index_select",
    "int32", "is_grad_enabled", "isfinite", "isinf", "isnan", "linspace", "load", "load_program", "log", "log1p",
    "log_softmax", "logsumexp", "manual_seed", "masked_fill", "matmul", "max", "maximum", "mean", "memory",
    "memory_by_origin", "memory_trace", "min", "minimum", "multinomial", "nn", "no_grad", "norm", "numel", "ones",
    "ones_like", "optim", "permute", "pow", "prod", "profile", "rand", "rand_like", "randint", "randn", "randn_like",
    "random", "randperm", "reciprocal", "relu", "remainder", "reshape", "rsqrt", "save", "set_backend", "sigmoid",
    "sign", "sin", "softmax", "sort", "split", "sqrt", "square", "squeeze", "stack", "std", "sum", "tanh", "tensor",
    "topk", "transpose", "tril", "triu", "unsqueeze", "use_backend", "var", "where", "zeros", "zeros_like",
]
