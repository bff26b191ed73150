"""x[key]: integers, slices with steps, None, ..., and one integer tensor, array or list. The result is a copy.

Indices on the host are checked. Those in a tensor are on the device, and to look at them would mean to wait for it: one
outside [-size, size) gives NaN (0 in integers) and no gradient."""

from __future__ import annotations

from typing import Any

import numpy as np

from .errors import ShapeError
from .ops import index_select, layout
from .ops.elementwise import evaluate
from .tape import apply
from .tensor import Tensor


def _expand_ellipsis(key: tuple[Any, ...], ndim: int) -> list[Any]:
    used = sum(k is not None and k is not Ellipsis for k in key)
    if used > ndim:
        raise ShapeError(f"[getitem] at most {ndim} indices fit a tensor of {ndim} dimensions, got {used}.")
    found: list[Any] = []
    for part in key:
        found += [slice(None)] * (ndim - used) if part is Ellipsis else [part]
    if not any(k is Ellipsis for k in key):
        found += [slice(None)] * (ndim - used)
    return found


def _one(place: int, axis: int, whole: int) -> slice:
    """The slice of the one element at `place`."""
    if not -whole <= place < whole:
        raise ShapeError(f"[getitem] index {place} is out of range for dimension {axis} of size {whole}.")
    return slice(place % whole, place % whole + 1)


def getitem(x: Tensor, key: Any) -> Tensor:
    """The part of x that key names."""
    parts = _expand_ellipsis(key if isinstance(key, tuple) else (key,), x.ndim)
    starts: list[int] = []
    sizes: list[int] = []
    steps: list[int] = []
    shape: list[int] = []
    gather: tuple[int, Tensor] | None = None
    for part in parts:
        axis = len(starts)
        if part is None:
            shape.append(1)
            continue
        whole = x.shape[axis]
        if isinstance(part, (Tensor, np.ndarray, list)):
            index = _from_the_end(part, whole) if isinstance(part, Tensor) else _index_tensor(part, x, axis)
            if gather is not None:
                raise ShapeError("[getitem] one index tensor at a time is supported, got two.")
            gather = (axis, index)
            part = slice(None)
            shape += index.shape
        elif isinstance(part, slice):
            shape.append(len(range(*part.indices(whole))))
        else:
            part = _one(int(part), axis, whole)
        start, stop, step = part.indices(whole)
        starts.append(start)
        sizes.append(len(range(start, stop, step)))
        steps.append(step)
    whole_tensor = all(s == 0 and n == w and d == 1 for s, n, w, d in zip(starts, sizes, x.shape, steps, strict=True))
    taken = x if whole_tensor else apply(layout.Slice, x, starts=tuple(starts), sizes=tuple(sizes), steps=tuple(steps))
    if gather is not None:
        axis, index = gather
        taken = apply(index_select.IndexSelect, taken, index.reshape(-1), dim=axis)
    result: Tensor = taken.reshape(*shape)
    return result


def _from_the_end(index: Tensor, whole: int) -> Tensor:
    """Negative indices as positive ones."""
    if index.dtype.kind == "b":
        raise ShapeError("[getitem] a mask has no fixed number of elements, so it cannot be an index. Use "
                         "dm.where(mask, x, 0).")
    if index.dtype.kind != "i":
        raise ShapeError(f"[getitem] an index tensor must be int32, got {index.dtype.name}.")
    operands = {"a": index._array, "b": whole}
    return Tensor(evaluate("wrap_forward", "select(a, a + b, a < 0)", operands, index.shape, index.dtype))


def _index_tensor(values: Any, like: Tensor, axis: int) -> Tensor:
    """Indices given on the host can be looked at: negative ones count from the end, wrong ones are refused."""
    from .array import from_numpy
    from .dtypes import int32
    host, whole = np.asarray(values), like.shape[axis]
    if host.size and host.dtype.kind not in "iu":
        raise ShapeError(f"[getitem] indices must be integers, got {host.dtype}.")
    for place in (host.min(), host.max()) if host.size else ():
        _one(int(place), axis, whole)
    return Tensor(from_numpy(np.where(host < 0, host + whole, host), int32, like._array.backend))
