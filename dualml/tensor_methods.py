"""What Tensor's longer methods do: tensor.py is the table of their names, this is a page of its own."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from . import dtypes, runtime
from .dims import normal_dim
from .dtypes import DType, as_dtype
from .errors import BackendError, DTypeError, MissingNameError, ShapeError, not_a_tensor
from .ops import cast, layout, sort as sorting, topk as best
from .ops.transfer import Transfer
from .tape import apply

if TYPE_CHECKING:
    from .tensor import Number, Tensor


class Extremes(NamedTuple):
    """What max and min along a dimension, topk and sort return."""

    values: Tensor
    indices: Tensor


# ---- what is refused ------------------------------------------------------------------------------------------------

_DEVICE = re.compile(r"(cpu|cuda|gpu|mps|xpu|hip|vulkan|webgpu)(:\d+)?")
_HINTS = {
    "device": "A tensor has a backend instead of a device: x.backend.",
    "cuda": "Move it with .to('cuda').",
    "data": "Use .detach().",
    "is_cuda": "Compare x.backend with 'cuda'.",
    "nelement": "Use .numel().",
    "type": "Use .dtype, or .to(dtype) to cast.",
    "double_": "Use .double().",
    "retain_grad": "Use dm.grad(output, [tensor]) for the gradient of a tensor that is not a leaf.",
    "element_size": "Use x.numpy().itemsize.",
    "storage": "Arrays are always contiguous; there is no storage to share.",
    "stride": "Arrays are always contiguous.",
}


def no_attribute(name: str) -> MissingNameError:
    hint = _HINTS.get(name, "Methods are PyTorch's; docs/tour.md says where what is there stands.")
    return MissingNameError(f"[tensor] a Tensor has no attribute {name!r}. {hint}")


def no_assignment() -> DTypeError:
    return DTypeError("[setitem] items of a tensor cannot be assigned. Use dm.where(mask, value, x), "
                      "x.masked_fill(mask, value) or dm.cat.")


def required(op: str, value: Any, name: str = "x") -> Tensor:
    """The value, which must be a Tensor."""
    from .tensor import Tensor
    if not isinstance(value, Tensor):
        raise not_a_tensor(op, f"{name} must be a Tensor", value)
    return value


# ---- what it is -----------------------------------------------------------------------------------------------------

def text(x: Tensor) -> str:
    """repr(x)."""
    with np.printoptions(precision=4, threshold=64, edgeitems=3, linewidth=110):
        body = np.array2string(x._array.numpy(), separator=", ", prefix="tensor(")
    parts = [body, f"backend={x.backend!r}"]
    if x.dtype not in (dtypes.float32, dtypes.int32, dtypes.bool_):
        parts.append(f"dtype={x.dtype}")
    if x._node is not None:
        parts.append(f"grad_fn=<{x._node.op.name}>")
    elif x.requires_grad:
        parts.append("requires_grad=True")
    return f"tensor({', '.join(parts)})"


def named_targets(named: dict[str, Any]) -> list[Any]:
    """What Tensor.to was given by name: backend and dtype, in this order."""
    if "device" in named:
        raise BackendError(f"[to] device must be given as backend= (cpu, webgpu, cuda), got {named['device']!r}.")
    if not named.keys() <= {"backend", "dtype"}:
        raise DTypeError(f"[to] names must be backend and dtype, got {', '.join(named)}.")
    return [named[name] for name in ("backend", "dtype") if named.get(name) is not None]


def to(x: Tensor, target: str | DType | Tensor) -> Tensor:
    from .tensor import Tensor
    if isinstance(target, Tensor):
        return to(to(x, target.backend), target.dtype)
    if isinstance(target, str) and (target == "auto" or target in runtime.backend_names()):
        backend = runtime.get(target)
        if backend is x._array.backend:
            return x
        moved: Tensor = apply(Transfer, x, backend=backend)
        return moved
    if isinstance(target, str) and _DEVICE.fullmatch(target):
        raise BackendError(f"[to] target must be a dtype or a backend (cpu, webgpu, cuda), got {target!r}. A backend "
                           "has one device: write .to('cuda') for this tensor, dm.set_backend('cuda') for new ones.")
    dtype = as_dtype(target)
    if dtype is x.dtype:
        return x
    result: Tensor = apply(cast.Cast, x, dtype=dtype)
    return result


# ---- values ---------------------------------------------------------------------------------------------------------

def clamp(x: Tensor, low: Tensor | Number | None, high: Tensor | Number | None) -> Tensor:
    from .tensor import elementwise, unify
    if low is None and high is None:
        raise ShapeError("[clamp] expected min or max, got neither.")
    if high is None:
        return x.maximum(low)  # type: ignore[arg-type]
    if low is None:
        return x.minimum(high)
    return elementwise("clamp", *unify("clamp", x, low, high))


def norm(x: Tensor) -> Tensor:
    total = x.square().sum()
    some = total != 0
    return total.where(some, 1.0).sqrt().where(some, 0.0)


def topk(x: Tensor, k: int, dim: int, largest: bool) -> Extremes:
    return Extremes(*apply(best.Topk, x, k=k, dim=normal_dim("topk", dim, x.ndim), largest=largest))


def sort(x: Tensor, dim: int, descending: bool) -> Extremes:
    return Extremes(*apply(sorting.Sort, x, dim=normal_dim("sort", dim, x.ndim), descending=descending))


def cropped(x: Tensor, dim: int, index: Tensor) -> Tensor:
    """The part of x that gather reads along dim: no larger than index in the other dimensions."""
    sizes = required("gather", index, "index").shape
    if len(sizes) != x.ndim or any(n > m for d, (n, m) in enumerate(zip(sizes, x.shape, strict=True)) if d != dim):
        raise ShapeError(f"[gather] index must have {x.ndim} dimensions, none but dim {dim} larger than in {x.shape}, "
                         f"got {sizes}.")
    return x[tuple(slice(None) if d == dim else slice(n) for d, n in enumerate(sizes))] if x.ndim else x


# ---- layout ---------------------------------------------------------------------------------------------------------

def flatten(x: Tensor, start_dim: int, end_dim: int) -> Tensor:
    first, last = normal_dim("flatten", start_dim, x.ndim), normal_dim("flatten", end_dim, x.ndim)
    return x.reshape(*x.shape[:first], math.prod(x.shape[first:last + 1]), *x.shape[last + 1:])


def squeeze(x: Tensor, dim: int | None) -> Tensor:
    if dim is None:
        return x.reshape(*[s for s in x.shape if s != 1])
    place = normal_dim("squeeze", dim, x.ndim)
    return x.reshape(*[s for i, s in enumerate(x.shape) if i != place or s != 1])


def transpose(x: Tensor, dim0: int, dim1: int) -> Tensor:
    axes = list(range(x.ndim))
    first, second = normal_dim("transpose", dim0, x.ndim), normal_dim("transpose", dim1, x.ndim)
    axes[first], axes[second] = axes[second], axes[first]
    return x.permute(*axes)


def matrix_transpose(x: Tensor) -> Tensor:
    if x.ndim > 2:
        raise ShapeError(f"[t] x must have at most 2 dimensions, got shape {x.shape}. Use .mT or .transpose(-1, -2).")
    return x.T if x.ndim == 2 else x


def expand(x: Tensor, wanted: tuple[int, ...]) -> Tensor:
    padded = (1,) * (len(wanted) - x.ndim) + x.shape
    shape = tuple(p if w == -1 else w for w, p in zip(wanted, padded, strict=True)) if len(padded) == len(wanted) \
        else wanted
    result: Tensor = apply(layout.Expand, x, shape=shape)
    return result


def narrow(x: Tensor, dim: int, start: int, length: int) -> Tensor:
    place = normal_dim("narrow", dim, x.ndim)
    whole = x.shape[place]
    start += whole if start < 0 else 0
    if not 0 <= start <= start + length <= whole:
        raise ShapeError(f"[narrow] start and length must lie within {whole}, got {start} and {length}.")
    return x[(slice(None),) * place + (slice(start, start + length),)]


def split(x: Tensor, split_size: int | Sequence[int], dim: int) -> tuple[Tensor, ...]:
    place = normal_dim("split", dim, x.ndim)
    whole = x.shape[place]
    if isinstance(split_size, int) and split_size < 1:
        raise ShapeError(f"[split] split_size must be at least 1, got {split_size}.")
    sizes = [min(split_size, whole - s) for s in range(0, whole, split_size)] if isinstance(split_size, int) \
        else list(split_size)
    if sum(sizes) != whole:
        raise ShapeError(f"[split] sizes must add up to {whole}, got {sizes}.")
    pieces: tuple[Tensor, ...] = apply(layout.Split, x, sizes=tuple(sizes), dim=place)
    return pieces
