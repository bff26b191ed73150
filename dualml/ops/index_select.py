"""Rows of x along one dimension, by an integer index: out[a, k, b] = x[a, index[k], b].

An index outside [0, D) gives NaN (0 in integers) and no gradient, as in embedding, whose kernels also make the
gradient here: rows that were read more than once are summed in a fixed order.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from ..array import Array, run
from ..errors import ShapeError
from ..kernel import kernel
from .base import BadCase, Case, Op
from .embedding import embedding_backward, embedding_order, embedding_segments
from .strided import permuted


@kernel("x[A,D,B] index:i32[K] -> out[A,K,B]", groups="cdiv(A*K*B, BLOCK*W)", software_block=64, static="B", vector="B",
        kinds={"F": "fib"})
def index_select_forward(x: np.ndarray, index: np.ndarray) -> np.ndarray:
    rows = x.shape[1]
    outside = (index < 0) | (index >= rows)
    if not outside.any():
        return x[:, index]
    out = x[:, np.where(outside, 0, index)] if rows else np.zeros((x.shape[0], index.size, x.shape[2]), x.dtype)
    out[:, outside] = np.nan if x.dtype.kind == "f" else 0
    return out


class IndexSelect(Op):
    """Rows `index` (int32 [K]) of x along dim."""

    def forward(self, x: Array, index: Array, dim: int) -> Array:
        if not -x.ndim <= dim < x.ndim:
            raise ShapeError(f"[index_select] dim must be in [{-x.ndim}, {x.ndim - 1}], got {dim}.")
        self.dim, self.shape = dim % x.ndim, x.shape
        self.save(index)
        before, after = math.prod(x.shape[:self.dim]), math.prod(x.shape[self.dim + 1:])
        out: Array = run(index_select_forward, x.reshape(before, x.shape[self.dim], after), index)
        return out.reshape(*x.shape[:self.dim], *index.shape, *x.shape[self.dim + 1:])

    def backward(self, gradient: Array) -> tuple[Array, None]:
        (index,) = self.saved
        rank, rows = len(self.shape), self.shape[self.dim]
        rest = [n for d, n in enumerate(self.shape) if d != self.dim]
        front = permuted(gradient, [self.dim, *[d for d in range(rank) if d != self.dim]])
        order, ordered = run(embedding_order, index)
        first = run(embedding_segments, ordered, V=rows)
        dx: Array = run(embedding_backward, front.reshape(index.size, math.prod(rest)), order, first)
        back = [*range(1, self.dim + 1), 0, *range(self.dim + 1, rank)]
        return permuted(dx.reshape(rows, *rest), back), None

    @classmethod
    def cases(cls, rng: np.random.Generator) -> Iterator[Case]:
        for shape, count, dim in [((5, 3), 4, 0), ((4, 8), 9, 0), ((3, 6, 5), 7, 1), ((2, 3, 4), 5, -1), ((7,), 3, 0),
                                  ((3, 2), 0, 0), ((1, 1), 1, 1), ((6, 300), 270, 0)]:
            index = rng.integers(0, shape[dim], count).astype(np.int32)
            yield Case(f"{'x'.join(map(str, shape))}-{count}-{dim}", (rng.standard_normal(shape), index), {"dim": dim})
        yield Case("int32", (np.arange(12, dtype=np.int32).reshape(4, 3), np.array([3, 0, 3], np.int32)), {"dim": 0},
                   dtypes=("float32",), differentiable=False)

    @classmethod
    def bad_cases(cls) -> Iterator[BadCase]:
        x, index = np.zeros((4, 3)), np.zeros(2, np.int32)
        yield BadCase("dim", (x, index), r"\[index_select\] dim must be in \[-2, 1\]", {"dim": 2})
        yield BadCase("rank", (x, index.reshape(1, 2)), r"index must be \[K\], got shape \(1, 2\)", {"dim": 0})
        yield BadCase("dtype", (x, x[0]), r"index must be int32", {"dim": 0})
