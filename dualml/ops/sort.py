"""Sort: all elements along a dimension in order, and where they were, stably: equals stay in their order.

Runs of RUN elements are sorted by counting, then neighbouring runs are merged, two by two, until one is left: each
element finds its place among those of the other run by binary search (Valiant, "Parallelism in comparison problems",
1975). Only indices are moved.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from ..array import Array, run
from ..errors import DTypeError
from ..kernel import kernel
from .base import BadCase, Case, Gradients, Op
from .gather import gather_forward, scattered
from .statistics import to_rows
from .topk import from_rows, ordered

RUN = 32  # elements that are sorted by counting


def _runs(x: np.ndarray, order: np.ndarray, length: int, largest: int) -> np.ndarray:
    """order with each stretch of `length` sorted; the last stretch of a row may be shorter."""
    made, whole = np.empty_like(order), order.shape[1] // length * length
    for part, size in ((slice(0, whole), length), (slice(whole, None), order.shape[1] - whole)):
        if size and order[:, part].size:
            split = order[:, part].reshape(-1, size)
            found = ordered(np.take_along_axis(x, order[:, part], 1).reshape(-1, size), largest)
            made[:, part] = np.take_along_axis(split, found, 1).reshape(len(x), -1)
    return made


@kernel("x[R,C] -> order:i32[R,C] | largest:u32 length:u32", groups="cdiv(R*C, BLOCK)", software_block=64,
        static="largest", kinds={"F": "fi"})
def sort_runs(x: Any, largest: int, length: int) -> Any:
    """Indices that sort each `length` elements of a row; from the largest down, or up."""
    return _runs(x, np.broadcast_to(np.arange(x.shape[1], dtype=np.int32), x.shape), length, largest)


@kernel("x[R,C] order:i32[R,C] -> merged:i32[R,C] | largest:u32 length:u32", groups="cdiv(R*C, BLOCK)",
        software_block=64, static="largest", kinds={"F": "fi"})
def sort_merge(x: Any, order: Any, largest: int, length: int) -> Any:
    """Indices that sort each 2 * length elements, from those that sort each `length`."""
    return _runs(x, order, 2 * length, largest)


class Sort(Op):
    """(values, indices) of x sorted along dim."""

    def forward(self, x: Array, dim: int = -1, descending: bool = False) -> tuple[Array, Array]:
        if x.dtype.kind == "b":
            raise DTypeError("[sort] x must be floating or integer, got bool. Cast it with .int().")
        self.shape, self.dim = x.shape, dim % max(1, x.ndim)
        rows = to_rows(x, (self.dim,) if x.ndim else ())
        order: Array = run(sort_runs, rows, largest=int(descending), length=RUN)
        length = RUN
        while length < rows.shape[1]:
            order = run(sort_merge, rows, order, largest=int(descending), length=length)
            length *= 2
        self.save(order)
        values: Array = run(gather_forward, rows.reshape(*rows.shape, 1), order.reshape(*order.shape, 1))
        return from_rows(values.reshape(*rows.shape), x.shape, self.dim), from_rows(order, x.shape, self.dim)

    def backward(self, dvalues: Array, _: Array | None) -> Gradients:
        (order,) = self.saved
        rows = to_rows(dvalues, (self.dim,) if self.shape else ())
        return (from_rows(scattered(rows.shape, rows, order, 1, unique=True), self.shape, self.dim),)

    @classmethod
    def cases(cls, rng: np.random.Generator) -> Iterator[Case]:
        for shape, dim in [((7,), 0), ((3, 5), 1), ((6, 4), 0), ((2, 3, 9), 1), ((2, 64), 1), ((3, 131), 1),
                           ((1, 1), 0), ((3, 0), 1), ((), -1)]:
            values = np.asarray(rng.permutation(int(np.prod(shape))).reshape(shape) / 4.0 - 20)
            yield Case(f"{'x'.join(map(str, shape))}-{dim}", (values,), {"dim": dim, "descending": len(shape) == 2})
        ties = np.round(2 * rng.standard_normal((3, 700)))
        ties[2, 100:600:7], ties[2, 103:600:11] = np.nan, -np.nan
        ties[1, 5::9], ties[1, 7::50] = -0.0, -np.inf
        for descending in (False, True):
            yield Case(f"ties_{descending}", (ties,), {"descending": descending}, differentiable=False)
            ints = rng.integers(-2**31, 2**31, (2, 300), dtype=np.int32)
            yield Case(f"ints_{descending}", (ints,), {"descending": descending}, ("float32",), False)

    @classmethod
    def bad_cases(cls) -> Iterator[BadCase]:
        yield BadCase("bool", (np.zeros(3, np.bool_),), r"\[sort\] x must be floating or integer, got bool")
