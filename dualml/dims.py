"""Dimensions, sizes and settings as users write them: counted from the end, several, all of them, left to be worked
out, or out of range."""

from __future__ import annotations

import math
import numbers
from collections.abc import Sequence
from typing import Any

from .errors import DTypeError, ShapeError

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
    for size in first:
        if isinstance(size, numbers.Real) and not isinstance(size, numbers.Integral):  # int() would cut it off
            raise DTypeError(f"[shape] sizes must be integers, got {size!r}. Use // where sizes are divided.")
    return tuple(int(s) for s in first)


def resolved(op: str, sizes: tuple[int, ...], count: int) -> tuple[int, ...]:
    """Sizes with the one that is -1 replaced by what holds `count` elements."""
    if -1 not in sizes:
        return sizes
    if sizes.count(-1) > 1:
        raise ShapeError(f"[{op}] only one size may be -1, got {sizes}.")
    known = math.prod(s for s in sizes if s != -1)
    return tuple((count // known if known else 0) if s == -1 else s for s in sizes)


def check_sizes(op: str, **sizes: Any) -> None:
    """Raises where a size is not an integer of at least 1."""
    for name, value in sizes.items():
        if isinstance(value, bool) or not isinstance(value, numbers.Integral):
            raise DTypeError(f"[{op}] {name} must be an integer, got {value!r}.")
        if value < 1:
            raise ShapeError(f"[{op}] {name} must be at least 1, got {value}.")


def check_number(op: str, name: str, value: Any, low: float = 0.0, high: float = math.inf,
                 below: bool = False) -> None:
    """Raises where a setting is not a number from low to high; `below` leaves out high itself."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise DTypeError(f"[{op}] {name} must be a number, got {value!r}.")
    number = float(value)
    if not low <= number <= high or (below and number >= high) or number == math.inf:
        wanted = f"in [{low:g}, {high:g}{')' if below else ']'}" if high < math.inf else f"at least {low:g} and finite"
        raise ShapeError(f"[{op}] {name} must be {wanted}, got {value}.")
