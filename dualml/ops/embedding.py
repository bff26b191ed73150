"""Embedding: rows of a table, out[n] = weight[indices[n]].

The gradient dweight[v] is the sum of dout[n] over the n with indices[n] = v, and must be the same on every run, so
nothing is added atomically. Instead the positions n are sorted by index, stably: position n goes to the place
    #{m : indices[m] < indices[n]} + #{m < n : indices[m] = indices[n]},
which is counted without a word to the others. Binary searches find where each index begins, and a workgroup adds up
one row's segment in a fixed order.

In WGSL every n counts for itself, which costs N^2 integer comparisons, whatever V is: 0.27e9 for 16k tokens. In CUDA a
block sorts 256 of its own and finds the place of all others among them: N^2 / 256 searches of 9 steps. Far beyond 64k
tokens a radix sort would be due.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from ..array import Array, run
from ..dtypes import int32
from ..errors import DTypeError, ShapeError
from ..kernel import Kernel, kernel
from .base import BadCase, Case, Gradients, Op

# ---- kernels --------------------------------------------------------------------------------------------------------


@kernel("weight[V,C] indices:i32[N] -> out[N,C]", groups="cdiv(N * (C // W), BLOCK)", software_block=64, static="C",
        vector="C")
def embedding_forward(weight: Any, indices: Any) -> Any:
    """Rows of NaN where an index is none of the table's."""
    ok = (indices >= 0) & (indices < len(weight))
    if ok.all():
        return weight[indices]
    out = np.full((len(indices), weight.shape[1]), np.nan, weight.dtype)
    out[ok] = weight[indices[ok]]
    return out


@kernel("weight[V,C] indices:i32[N] added[L,C] -> out[N,C]", groups="cdiv(N * (C // W), BLOCK)", software_block=64,
        static="C", vector="C")
def embedding_add_forward(weight: Any, indices: Any, added: Any) -> Any:
    """embedding_forward plus `added`, which begins anew every L rows: what fusion makes of tokens and positions."""
    rows: Any = embedding_forward(weight, indices)
    return (rows.reshape(-1, *added.shape) + added).reshape(rows.shape)


@kernel("indices:i32[N] -> order:i32[1*N] sorted:i32[1*N]", groups="cdiv(N, BLOCK)", software_block=64, vector="N")
def embedding_order(indices: Any) -> Any:
    """The positions sorted by index, and the sorted indices. (1*N: written singly even where indices are read by four.)
    """
    order = np.argsort(indices, kind="stable").astype(np.int32)
    return order, indices[order]


@kernel("sorted:i32[N] -> first:i32[V+1] | V:u32", groups="cdiv(V + 1, BLOCK)", software_block=64)
def embedding_segments(sorted: Any, V: int) -> Any:
    """Where the segment of each table row begins; row v's ends where that of v + 1 begins."""
    return np.searchsorted(sorted, np.arange(V + 1)).astype(np.int32)


@kernel("dout[N,C] order:i32[N] first:i32[S] -> dweight[S-1,C]",
        groups="(S - 1) * cdiv(C, W * min(BLOCK, 32))", software_block=32, static="C", vector="C")
def embedding_backward(dout: Any, order: Any, first: Any) -> Any:
    """Sums of each table row's segment; 0 where it is empty."""
    dweight = np.zeros((len(first) - 1, dout.shape[1]), dout.dtype)
    used = np.flatnonzero(first[1:] > first[:-1])
    if len(used):
        dweight[used] = np.add.reduceat(dout[order[:first[-1]]], first[used], axis=0)
    return dweight


@kernel("&dweight[V,C] dout[N,C] order:i32[N] first:i32[V+1]", groups="V * cdiv(C, W * min(BLOCK, 32))",
        software_block=32, static="C", vector="C")
def embedding_accumulate(dweight: Any, dout: Any, order: Any, first: Any) -> Any:
    """dweight += embedding_backward, but rows without a segment are not touched."""
    used = np.flatnonzero(first[1:] > first[:-1])
    if len(used):
        dweight[used] += np.add.reduceat(dout[order[:first[-1]]], first[used], axis=0).astype(dweight.dtype)
    return dweight


# ---- op -------------------------------------------------------------------------------------------------------------

class Embedding(Op):
    """Rows of weight [V, C] by int32 indices [...] -> [..., C]. An index outside [0, V) gives a row of NaN and no
    gradient: to raise an error would mean to wait for the device in every step."""

    def forward(self, weight: Array, indices: Array) -> Array:
        if weight.ndim != 2:
            raise ShapeError(f"[embedding] weight must be [V, C], got shape {weight.shape}.")
        if indices.dtype is not int32:
            raise DTypeError(f"[embedding] indices must be int32, got {indices.dtype.name}.")
        self.rows = weight.shape[0]
        self.save(indices)
        flat = indices.reshape(indices.size)
        out: Array = run(embedding_forward, weight, flat)
        return out.reshape(*indices.shape, weight.shape[1])

    def backward(self, dout: Array) -> Gradients:
        (indices,) = self.saved
        order, ordered = run(embedding_order, indices.reshape(indices.size))
        first = run(embedding_segments, ordered, V=self.rows)
        flat = dout.reshape(indices.size, dout.shape[-1])
        return run(embedding_backward, flat, order, first, out=tuple(self.into[:1])), None

    @classmethod
    def cases(cls, rng: np.random.Generator) -> Iterator[Case]:
        def case(name: str, table: tuple[int, int], shape: tuple[int, ...]) -> Case:
            return Case(name, (rng.standard_normal(table), rng.integers(0, table[0], shape).astype(np.int32)))

        yield case("odd", (7, 5), (3,))
        yield case("vector", (10, 8), (2, 6))
        yield case("one_index", (4, 12), ())
        yield case("no_indices", (4, 12), (0,))
        yield case("one_row", (1, 3), (9,))
        yield case("wide", (5, 132), (3, 7))
        yield case("wide_odd", (5, 37), (4, 5))
        yield case("many", (13, 4), (3, 300))
        yield case("large_table", (1000, 4), (6,))
        yield Case("outside", (rng.standard_normal((4, 8)), np.array([3, 4, -1, 0, 3], np.int32)), differentiable=False)

    @classmethod
    def bad_cases(cls) -> Iterator[BadCase]:
        yield BadCase("weight", (np.zeros(4), np.zeros(2, np.int32)), r"\[embedding\] weight must be \[V, C\]")
        yield BadCase("indices", (np.zeros((4, 2)), np.zeros(2)), r"\[embedding\] indices must be int32, got float32")


def kernel_cases(rng: np.random.Generator) -> Iterator[tuple[Kernel, tuple[np.ndarray, ...], dict[str, Any]]]:
    """Sample launches of what no op reaches."""
    for rows, width, count in ((7, 5, 3), (5, 132, 21), (13, 4, 300), (3, 8, 0)):
        indices = rng.integers(0, rows, count)
        order = np.argsort(indices, kind="stable").astype(np.int32)
        first = np.searchsorted(indices[order], np.arange(rows + 1)).astype(np.int32)
        table, dout = rng.standard_normal((rows, width)), rng.standard_normal((count, width))
        yield embedding_accumulate, (table, dout, order, first), {}
        outside = np.where(indices == 1, rows, indices).astype(np.int32)
        for again in {1, 3, count} & {n for n in range(1, count + 1) if count % n == 0}:
            yield embedding_add_forward, (table, outside, rng.standard_normal((again, width))), {}
