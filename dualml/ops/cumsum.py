"""Cumsum: running sums along a dimension, out[i] = x[0] + ... + x[i]. The gradient runs from the other end.

A workgroup goes along a row tile by tile: each invocation sums a few neighbours, those sums are scanned (Hillis and
Steele, "Data parallel algorithms", 1986), and each adds its neighbours again to what came before.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ..array import Array, run
from ..errors import DTypeError
from ..kernel import kernel
from .base import BadCase, Case, Gradients, Op
from .statistics import to_rows
from .topk import from_rows


@kernel("x[R,C] -> out[R,C] | reverse:u32", groups="R", block=128, software_block=8, static="reverse",
        kinds={"F": "fi"})
def cumsum_forward(x: np.ndarray, reverse: int) -> np.ndarray:
    if reverse:
        return np.cumsum(x[:, ::-1], axis=1, dtype=x.dtype)[:, ::-1]
    return np.cumsum(x, axis=1, dtype=x.dtype)


class Cumsum(Op):
    """Running sums of x along dim."""

    def _run(self, x: Array, reverse: int) -> Array:
        rows = to_rows(x, (self.dim,) if x.ndim else ())
        return from_rows(run(cumsum_forward, rows, reverse=reverse), x.shape, self.dim)

    def forward(self, x: Array, dim: int) -> Array:
        if x.dtype.kind == "b":
            raise DTypeError("[cumsum] x must be floating or integer, got bool. Cast it with .int().")
        self.dim = dim
        return self._run(x, 0)

    def backward(self, gradient: Array) -> Gradients:
        return (self._run(gradient, 1),)

    @classmethod
    def cases(cls, rng: np.random.Generator) -> Iterator[Case]:
        for shape, dim in [((7,), 0), ((3, 5), 1), ((6, 4), 0), ((2, 3, 9), 1), ((1, 1), 1), ((3, 0), 1), ((), 0),
                           ((2, 2500), 1)]:
            large = len(shape) == 2 and shape[1] > 1000
            values = rng.random(shape) if large else rng.standard_normal(shape)
            yield Case(f"{'x'.join(map(str, shape))}-{dim}", (np.asarray(values),), {"dim": dim},
                       ("float32",) if large else ("float32", "float16", "bfloat16"), differentiable=not large)
        yield Case("ints", (rng.integers(-2**31, 2**31, (3, 1100), dtype=np.int32),), {"dim": 1}, ("float32",), False)

    @classmethod
    def bad_cases(cls) -> Iterator[BadCase]:
        yield BadCase("bool", (np.zeros(3, np.bool_),), r"\[cumsum\] x must be floating or integer", {"dim": 0})
