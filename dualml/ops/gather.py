"""Gather: one element of x along a dimension for each index, out[a,k,b] = x[a, index[a,k,b], b].

The gradient adds up what several indices took from one place, and must be the same on every run, so nothing is added
atomically: of the k that share an index the first adds all of them, in order. That costs K^2 comparisons for each a and
b, of integers that neighbours read together; K is small where gather is used (one label of a row, the best k).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from ..array import Array, run
from ..errors import ShapeError
from ..kernel import kernel
from .base import BadCase, Case, Op
from .create import fill

# ---- kernels --------------------------------------------------------------------------------------------------------


@kernel("x[A,D,B] index:i32[A,K,B] -> out[A,K,B]", groups="cdiv(A*K*B, BLOCK)", software_block=64, kinds={"F": "fib"})
def gather_forward(x: Any, index: Any) -> Any:
    """NaN (0 in integers) where an index is outside of x."""
    outside = (index < 0) | (index >= x.shape[1])
    if not outside.any():
        return np.take_along_axis(x, index, 1)
    padded = np.concatenate([x, np.full_like(x[:, :1], np.nan if x.dtype.kind == "f" else 0)], 1) if x.shape[1] else \
        np.full((x.shape[0], 1, x.shape[2]), np.nan if x.dtype.kind == "f" else 0, x.dtype)
    return np.take_along_axis(padded, np.where(outside, x.shape[1], index), 1)


@kernel("&x[A,D,B] values[A,K,B] index:i32[A,K,B] | unique:u32", groups="cdiv(A*K*B, BLOCK)", software_block=64,
        static="unique")
def scatter_add_forward(x: Any, values: Any, index: Any, unique: int) -> Any:
    """x[a, index[a,k,b], b] += values[a,k,b]; indices outside of x add nothing. `unique` promises that no index of one
    a and b comes twice, which saves the search for others."""
    a, k, b = np.nonzero((index >= 0) & (index < x.shape[1]))
    np.add.at(x, (a, index[a, k, b], b), values[a, k, b])
    return x


# ---- functions ------------------------------------------------------------------------------------------------------

def folded(shape: tuple[int, ...], dim: int) -> tuple[int, int, int]:
    """(A, D, B): the sizes before dim, of dim, and after it."""
    return math.prod(shape[:dim]), shape[dim], math.prod(shape[dim + 1:])


def scattered(shape: tuple[int, ...], values: Array, index: Array, dim: int, unique: bool = False) -> Array:
    """Zeros of `shape`, to which values [...] are added at index [...] along dim."""
    x = fill(shape, 0.0, values.dtype, values.backend)
    split = folded(values.shape, dim)
    run(scatter_add_forward, x.reshape(*folded(shape, dim)), values.reshape(*split), index.reshape(*split),
        unique=int(unique))
    return x


# ---- op -------------------------------------------------------------------------------------------------------------

class Gather(Op):
    """x at index (int32, x's shape but for dim) along dim. An index outside [0, D) gives NaN (0 in integers) and no
    gradient: to raise an error would mean to wait for the device."""

    def forward(self, x: Array, index: Array, dim: int) -> Array:
        self.shape, self.dim = x.shape, dim
        rest = [n for d, n in enumerate(x.shape) if d != dim]
        if index.ndim != x.ndim or rest != [n for d, n in enumerate(index.shape) if d != dim]:
            raise ShapeError(f"[gather] index must have the shape of x but for dim {dim}, {x.shape}, got "
                             f"{index.shape}.")
        self.save(index)
        out: Array = run(gather_forward, x.reshape(*folded(x.shape, dim)), index.reshape(*folded(index.shape, dim)))
        return out.reshape(*index.shape)

    def backward(self, gradient: Array) -> tuple[Array, None]:
        (index,) = self.saved
        return scattered(self.shape, gradient, index, self.dim), None

    @classmethod
    def cases(cls, rng: np.random.Generator) -> Iterator[Case]:
        for shape, count, dim in [((5, 3), 4, 0), ((4, 7), 1, 1), ((3, 6, 5), 7, 1), ((7,), 30, 0), ((3, 2), 0, 1),
                                  ((1, 1), 1, 1), ((2, 300), 290, 1), ((40, 9), 3, 0)]:
            wanted = (*shape[:dim], count, *shape[dim + 1:])
            index = rng.integers(0, shape[dim], wanted).astype(np.int32)
            yield Case(f"{'x'.join(map(str, shape))}-{count}-{dim}", (rng.standard_normal(shape), index), {"dim": dim})
        some = np.array([[3, 0, 3], [1, 1, 0]], np.int32)
        yield Case("int32", (np.arange(12, dtype=np.int32).reshape(2, 6), some), {"dim": 1}, ("float32",), False)
        yield Case("bool", (rng.random((2, 6)) < 0.5, some), {"dim": 1}, ("float32",), False)
        yield Case("outside", (rng.standard_normal((2, 3)), some), {"dim": 1}, differentiable=False)
        yield Case("below", (rng.standard_normal((2, 3)), some - 1), {"dim": 1}, differentiable=False)

    @classmethod
    def bad_cases(cls) -> Iterator[BadCase]:
        x, index = np.zeros((4, 3)), np.zeros((4, 2), np.int32)
        yield BadCase("shape", (x, index), r"\[gather\] index must have the shape of x but for dim 0", {"dim": 0})
        yield BadCase("rank", (x, index[0]), r"index must have the shape of x", {"dim": 1})
        yield BadCase("dtype", (x, index.astype(np.float64)), r"index must be int32", {"dim": 1})
