"""Tensor's methods as functions, dm.sum(x, 1) for x.sum(1), and a few that have no method.

The names are Python's own here too (sum, max, abs ...), as in PyTorch: this module calls none of the builtins by them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

import numpy as np

from .creation import tensor
from .dtypes import bool_
from .errors import DTypeError, ShapeError
from .ops import multinomial as draws
from .ops.topk import MAX_K
from .random import default_generator
from .tape import no_grad
from .tensor import Tensor
from .tensor_methods import required

P = ParamSpec("P")
R = TypeVar("R")


def function(method: Callable[Concatenate[Tensor, P], R]) -> Callable[Concatenate[Tensor, P], R]:
    """The method as a function, which says so where it is given something else than a Tensor."""
    @wraps(method)
    def call(x: Tensor, /, *args: P.args, **kwargs: P.kwargs) -> R:
        return method(required(method.__name__, x), *args, **kwargs)
    return call


sum = function(Tensor.sum)
mean = function(Tensor.mean)
prod = function(Tensor.prod)
max = function(Tensor.max)
min = function(Tensor.min)
amax = function(Tensor.amax)
amin = function(Tensor.amin)
argmax = function(Tensor.argmax)
argmin = function(Tensor.argmin)
any = function(Tensor.any)
all = function(Tensor.all)
var = function(Tensor.var)
std = function(Tensor.std)
norm = function(Tensor.norm)
logsumexp = function(Tensor.logsumexp)
softmax = function(Tensor.softmax)
log_softmax = function(Tensor.log_softmax)

abs = function(Tensor.abs)
sign = function(Tensor.sign)
exp = function(Tensor.exp)
log = function(Tensor.log)
log1p = function(Tensor.log1p)
expm1 = function(Tensor.expm1)
sqrt = function(Tensor.sqrt)
rsqrt = function(Tensor.rsqrt)
reciprocal = function(Tensor.reciprocal)
square = function(Tensor.square)
pow = function(Tensor.pow)
floor_divide = function(Tensor.floor_divide)
remainder = function(Tensor.remainder)
sin = function(Tensor.sin)
cos = function(Tensor.cos)
tanh = function(Tensor.tanh)
sigmoid = function(Tensor.sigmoid)
relu = function(Tensor.relu)
erf = function(Tensor.erf)
floor = function(Tensor.floor)
ceil = function(Tensor.ceil)
clamp = function(Tensor.clamp)
isnan = function(Tensor.isnan)
isinf = function(Tensor.isinf)
isfinite = function(Tensor.isfinite)
masked_fill = function(Tensor.masked_fill)
matmul = function(Tensor.matmul)

cumsum = function(Tensor.cumsum)
gather = function(Tensor.gather)
index_select = function(Tensor.index_select)
topk = function(Tensor.topk)
sort = function(Tensor.sort)
argsort = function(Tensor.argsort)

reshape = function(Tensor.reshape)
flatten = function(Tensor.flatten)
squeeze = function(Tensor.squeeze)
unsqueeze = function(Tensor.unsqueeze)
permute = function(Tensor.permute)
transpose = function(Tensor.transpose)
flip = function(Tensor.flip)
tril = function(Tensor.tril)
triu = function(Tensor.triu)
split = function(Tensor.split)
chunk = function(Tensor.chunk)
broadcast_to = function(Tensor.broadcast_to)
clone = function(Tensor.clone)
numel = function(Tensor.numel)


def from_numpy(array: Any) -> Tensor:
    """A tensor with a copy of the array, on the current backend. Integers narrow to int32."""
    if not isinstance(array, np.ndarray):
        kind = type(array).__name__
        raise DTypeError(f"[from_numpy] array must be a NumPy array, got {kind}. Make a tensor of it with dm.tensor.")
    return tensor(array)


def allclose(a: Tensor, b: Tensor, rtol: float = 1e-5, atol: float = 1e-8, equal_nan: bool = False) -> bool:
    """Whether |a - b| <= atol + rtol |b| everywhere, and infinities are equal. Waits for the device."""
    pair = [required("allclose", v, n).detach() for v, n in ((a, "a"), (b, "b"))]
    x, y = (v.int() if v.dtype is bool_ else v for v in pair)
    off = (x - y).abs()
    near = (x == y) | ((off <= atol + rtol * y.abs()) & off.isfinite())
    if equal_nan:
        near = near | (x.isnan() & y.isnan())
    return bool(near.all().item())


def multinomial(probs: Tensor, num_samples: int, replacement: bool = False) -> Tensor:
    """Indices drawn by their chances, int32 [R, num_samples] (or [num_samples] for one row), on the device.

    Chances are counted in units of 2^-30 of their row's sum: a smaller one is never drawn with replacement.

    Args:
        probs: [R, C] or [C]; rows need not add up to 1. What is not positive is never drawn, and where nothing is left
            to draw, or a row adds up to infinity, the index is -1: to raise an error would mean to wait for the device.
        replacement: whether an index may come again. Without it indices are in the order they were drawn
            (Efraimidis and Spirakis 2006, "Weighted random sampling with a reservoir").
    """
    x = required("multinomial", probs, "probs").detach()
    if not x.dtype.is_floating_point or x.ndim not in (1, 2):
        raise ShapeError(f"[multinomial] probs must be floating, [R,C] or [C], got {x.dtype.name} of shape {x.shape}.")
    if num_samples < 0 or (num_samples > x.shape[-1] and not replacement):
        raise ShapeError(f"[multinomial] num_samples must be from 0 to C={x.shape[-1]}, got {num_samples}. Pass "
                         "replacement=True to draw more.")
    rows = x.reshape(-1, x.shape[-1]) if x.ndim == 2 else x.reshape(1, -1)
    with no_grad():
        rows = rows.float() if rows.dtype.name in ("float16", "bfloat16") else rows
        rows = rows.where(rows > 0, 0.0)
        share = rows / rows.sum(-1, keepdim=True)
        share = share.where(share <= 1, 0.0)  # NaN and infinite rows have no shares
        found = _drawn(share, num_samples) if replacement else _drawn_once(share, num_samples)
    return found.reshape(*x.shape[:-1], num_samples)


def _drawn(share: Tensor, count: int) -> Tensor:
    running = (share * draws.UNITS + 0.5).int().cumsum(1)
    return Tensor(draws.draw(running._array, count, default_generator()))


def _drawn_once(share: Tensor, count: int) -> Tensor:
    """The first to come, where each waits for a time of exponential distribution with its chance as the rate."""
    from .creation import rand_like
    waiting = (-(-rand_like(share)).log1p()).maximum(1e-30)
    rates = share / waiting
    first = rates.topk(count) if count <= MAX_K else rates.sort(descending=True)
    return first.indices.where(first.values > 0, -1)[:, :count]
