"""Topk: the k largest (or smallest) elements along a dimension, best first, and where they are.

Of equal elements the one with the lower index comes first, and NaN counts as the largest, as in PyTorch, so that every
backend chooses alike. Nothing is sorted but the k: elements are ordered by integer keys, and a radix select finds the
key of the k-th (as in dualml.ops.sampling).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from ..array import Array, run
from ..errors import DTypeError, ShapeError
from ..kernel import kernel
from .base import BadCase, Case, Gradients, Op
from .gather import scattered
from .statistics import to_rows
from .strided import permuted

MAX_K = 256  # what a workgroup keeps in its memory, and the rows that it need not select from


def ordered(rows: np.ndarray, largest: int) -> Any:
    """Indices that sort rows, best first, the lower index first among equals. NumPy too sorts NaN as the largest."""
    if largest:
        return rows.shape[1] - 1 - np.argsort(rows[:, ::-1], axis=1, kind="stable")[:, ::-1]
    return np.argsort(rows, axis=1, kind="stable")


def _candidates(row: np.ndarray, k: int, largest: int) -> np.ndarray:
    """Indices of the best k of a long row, in their order in the row."""
    place = row.size - k if largest else k - 1
    last = np.partition(row, place)[place]
    if last != last:
        equal = np.isnan(row)
        better = np.zeros_like(equal) if largest else ~equal
    else:
        equal, better = row == last, row > last if largest else row < last
        if largest and row.dtype.kind == "f":
            better |= np.isnan(row)
    missing = k - np.count_nonzero(better)
    better[np.flatnonzero(equal)[:missing]] = True
    return np.flatnonzero(better)


@kernel("x[R,C] -> values[R,K] indices:i32[R,K] | K:u32 largest:u32", groups="R", software_block=8, static="C largest",
        vector="C", kinds={"F": "fi"})
def topk_forward(x: Any, K: int, largest: int) -> Any:
    """At most MAX_K of each row."""
    if x.shape[1] <= MAX_K:
        found = ordered(x, largest)[:, :K]
    else:
        chosen = np.stack([_candidates(row, K, largest) for row in x])
        found = np.take_along_axis(chosen, ordered(np.take_along_axis(x, chosen, 1), largest), 1)
    return np.take_along_axis(x, found, 1), found


# One block reads a whole row: on CUDA a long one is waited for less by more threads.
topk_forward.variant("wide", "cuda", lambda device, dims: dims["C"] > 4096, groups="R", block=1024)


def topk_rows(x: Array, k: int, largest: bool = True) -> tuple[Array, Array]:
    """The best k of each row, best first: values [R,k] and indices, int32 [R,k].

    Args:
        x: [R,C], floating or integer.
        k: at most C and MAX_K.
        largest: else the smallest are the best.
    """
    if x.dtype.kind == "b":
        raise DTypeError("[topk] x must be floating or integer, got bool. Cast it with .int().")
    if not 0 <= k <= x.shape[1]:
        raise ShapeError(f"[topk] k must be from 0 to the dimension's size, {x.shape[1]}, got {k}.")
    if k > MAX_K:
        raise ShapeError(f"[topk] k must be at most {MAX_K}, got {k}. Sort the tensor instead: x.sort(dim).")
    values, indices = run(topk_forward, x, K=k, largest=int(largest))
    return values, indices


def from_rows(rows: Array, shape: tuple[int, ...], dim: int) -> Array:
    """The opposite of to_rows(x, (dim,)) for x of `shape`, whose dim may have another size now."""
    if not shape:
        return rows.reshape()
    kept = [n for d, n in enumerate(shape) if d != dim]
    back = [*range(dim), len(kept), *range(dim, len(kept))]
    return permuted(rows.reshape(*kept, rows.shape[1]), back)


class Topk(Op):
    """(values, indices) of the best k along dim."""

    def forward(self, x: Array, k: int, dim: int = -1, largest: bool = True) -> tuple[Array, Array]:
        self.shape, self.dim = x.shape, dim % max(1, x.ndim)
        values, indices = topk_rows(to_rows(x, (self.dim,) if x.ndim else ()), k, largest)
        self.save(indices)
        return from_rows(values, x.shape, self.dim), from_rows(indices, x.shape, self.dim)

    def backward(self, dvalues: Array, _: Array | None) -> Gradients:
        (indices,) = self.saved
        rows = to_rows(dvalues, (self.dim,) if self.shape else ())
        count = self.shape[self.dim] if self.shape else 1
        return (from_rows(scattered((rows.shape[0], count), rows, indices, 1, unique=True), self.shape, self.dim),)

    @classmethod
    def cases(cls, rng: np.random.Generator) -> Iterator[Case]:
        def distinct(*shape: int) -> np.ndarray:
            values: np.ndarray = rng.permutation(int(np.prod(shape))).reshape(shape) / 4.0 - 20
            return values

        for shape, k, dim in [((7,), 3, 0), ((3, 5), 5, 1), ((6, 4), 2, 0), ((2, 3, 9), 4, -1), ((2, 64), 64, 1),
                              ((3, 4), 0, 1), ((1, 1), 1, 0), ((2, 301), 17, 1), ((1, 516), 256, 1)]:
            name = f"{'x'.join(map(str, shape))}-{k}-{dim}"
            yield Case(name, (distinct(*shape),), {"k": k, "dim": dim}, differentiable=False)
        yield Case("gradient", (distinct(3, 7),), {"k": 3, "dim": 1})
        yield Case("smallest", (distinct(3, 7),), {"k": 3, "dim": 0, "largest": False})
        yield Case("scalar", (np.array(2.5),), {"k": 1})
        ties = np.round(2 * rng.standard_normal((3, 700)))
        ties[2, 100:600:7], ties[2, 103:600:11] = np.nan, -np.nan
        ties[1, 5::9], ties[1, 7::50] = -0.0, -np.inf
        for largest in (True, False):
            yield Case(f"ties_{largest}", (ties,), {"k": 100, "largest": largest}, differentiable=False)
            yield Case(f"few_{largest}", (ties[:, 90:150],), {"k": 20, "largest": largest}, differentiable=False)
            ints = rng.integers(-2**31, 2**31, (2, 300), dtype=np.int32)
            yield Case(f"ints_{largest}", (ints,), {"k": 9, "largest": largest}, ("float32",), False)
        yield Case("all_equal", (np.ones((1, 5002)),), {"k": 130}, ("float32",), False)
        yield Case("long", (rng.standard_normal((2, 5000)),), {"k": 200}, ("float32",), False)

    @classmethod
    def bad_cases(cls) -> Iterator[BadCase]:
        yield BadCase("k", (np.zeros((2, 3)),), r"\[topk\] k must be from 0 to .* size, 3, got 4", {"k": 4})
        yield BadCase("negative", (np.zeros((2, 3)),), r"\[topk\] k must be from 0", {"k": -1})
        yield BadCase("many", (np.zeros((1, 300)),), r"\[topk\] k must be at most 256, got 257", {"k": 257})
        yield BadCase("bool", (np.zeros(3, np.bool_),), r"\[topk\] x must be floating or integer, got bool", {"k": 1})
