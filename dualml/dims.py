"""Dimensions and sizes as users write them: counted from the end, several, all of them, or left to be worked out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from .errors import ShapeError

Dims = int | Sequence[int] | None


def normal_dim(op: str, dim: int, ndim: int) -> int:
    """A dimension counted from the front. Raises ShapeError outside [-ndim, ndim)."""
    if not -max(ndim, 1) <= dim < max(ndim, 1):
        raise ShapeError(f"[{op}] dim must be in [{-max(ndim, 1)}, {max(ndim, 1) - 1}] for {ndim} dimensions, "
                         f"got {dim}.")
    return dim % max(ndim, 1)


def normal_dims(op: str, dim: Dims, ndim: int) -> tuple[int, ...]:
    """Sorted dimensions counted from the front; None is all of them."""
    if dim is None:
        return tuple(range(ndim))
    dims = [normal_dim(op, d, ndim) for d in ([dim] if isinstance(dim, int) else dim)]
    if len(set(dims)) != len(dims):
        raise ShapeError(f"[{op}] dim must not repeat a dimension, got {dim}.")
    return tuple(sorted(d for d in dims if ndim))


def sizes_of(given: tuple[Any, ...]) -> tuple[int, ...]:
    """The two spellings of sizes: f(2, 3) and f((2, 3))."""
    first = given[0] if len(given) == 1 and isinstance(given[0], (tuple, list)) else given
    return tuple(int(s) for s in first)


def resolved(op: str, sizes: tuple[int, ...], count: int) -> tuple[int, ...]:
    """Sizes with the one that is -1 replaced by what holds `count` elements."""
    if -1 not in sizes:
        return sizes
    if sizes.count(-1) > 1:
        raise ShapeError(f"[{op}] only one size may be -1, got {sizes}.")
    known = math.prod(s for s in sizes if s != -1)
    return tuple((count // known if known else 0) if s == -1 else s for s in sizes)
