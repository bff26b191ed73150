"""Softmax and LogSoftmax over any dim: y = exp(x - max) / sum(exp(x - max)), and its logarithm.

The maximum and the sum are found in one pass: Milakov and Gimelshein 2018, "Online normalizer calculation for softmax",
arXiv 1805.02867. dx = y * (dy - sum(y * dy)); for the logarithm dx = dy - exp(y) * sum(dy).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import numpy as np

from ..array import Array, Shape, run
from ..kernel import Kernel, kernel
from .base import BadCase, Case, Gradients, Op
from .folds import require_floating
from .strided import permuted


@kernel("x[N,C] -> y[N,C]", groups="N", block=128, software_block=8, vector="C")
def softmax_forward(x: np.ndarray) -> np.ndarray:
    y: np.ndarray = x - x.max(axis=1, keepdims=True)
    np.exp(y, out=y)
    y /= y.sum(axis=1, keepdims=True)
    return y


@kernel("y[N,C] dy[N,C] -> dx[N,C]", groups="N", block=128, software_block=8, vector="C")
def softmax_backward(y: np.ndarray, dy: np.ndarray) -> np.ndarray:
    dx: np.ndarray = y * dy
    np.subtract(dy, dx.sum(axis=1, keepdims=True), out=dx)
    dx *= y
    return dx


@kernel("x[N,C] -> y[N,C]", groups="N", block=128, software_block=8, vector="C")
def log_softmax_forward(x: np.ndarray) -> np.ndarray:
    y: np.ndarray = x - x.max(axis=1, keepdims=True)
    y -= np.log(np.exp(y).sum(axis=1, keepdims=True))
    return y


@kernel("y[N,C] dy[N,C] -> dx[N,C]", groups="N", block=128, software_block=8, vector="C")
def log_softmax_backward(y: np.ndarray, dy: np.ndarray) -> np.ndarray:
    dx: np.ndarray = np.exp(y)
    dx *= -dy.sum(axis=1, keepdims=True)
    dx += dy
    return dx


class Softmax(Op):
    kernels: ClassVar[tuple[Kernel, Kernel]] = (softmax_forward, softmax_backward)

    def forward(self, x: Array, dim: int) -> Array:
        require_floating(self.name, x.dtype)
        self.shape, self.dim = x.shape, dim
        rows = run(self.kernels[0], self._rows(x))
        self.save(rows)
        return self._whole(rows)

    def backward(self, dy: Array) -> Gradients:
        slot = self.into[0] if self.into and self._is_last() else None
        dx: Array = run(self.kernels[1], *self.saved, self._rows(dy), out=(slot,))
        return (slot if slot is not None else self._whole(dx),)

    def _is_last(self) -> bool:
        return self.dim >= len(self.shape) - 1

    def _order(self) -> list[int]:
        return [*(a for a in range(len(self.shape)) if a != self.dim), self.dim]

    def _rows(self, x: Array) -> Array:
        count = self.shape[self.dim] if self.shape else 1
        moved = x if self._is_last() else permuted(x, self._order())
        return moved.reshape(x.size // count if count else 0, count)

    def _whole(self, rows: Array) -> Array:
        if self._is_last():
            return rows.reshape(*self.shape)
        order = self._order()
        moved: Shape = tuple(self.shape[a] for a in order)
        return permuted(rows.reshape(*moved), [order.index(a) for a in range(len(order))])

    @classmethod
    def cases(cls, rng: np.random.Generator) -> Iterator[Case]:
        for name, shape, dim in (
                ("row", (7,), 0), ("rows", (3, 5), 1), ("rows4", (5, 8), 1), ("over_block", (2, 131), 1),
                ("over_block4", (2, 520), 1), ("columns", (6, 3), 0), ("middle", (2, 5, 4), 1), ("one", (4, 1), 1),
                ("empty", (0, 3), 1), ("no_columns", (3, 0), 1), ("scalar", (), 0)):
            yield Case(name, (np.asarray(3 * rng.standard_normal(shape)),), {"dim": dim})
        yield Case("large", (rng.standard_normal((2, 9)) * 4 + 60,), {"dim": 1})
        masked = rng.standard_normal((3, 6))
        masked[0, 3:] = masked[2, 1] = -np.inf
        yield Case("masked", (masked,), {"dim": 1}, differentiable=False)

    @classmethod
    def bad_cases(cls) -> Iterator[BadCase]:
        yield BadCase("ints", (np.ones((2, 2), np.int32),), rf"\[{cls.name}\] x must be floating", {"dim": 1})


class LogSoftmax(Softmax):
    kernels = (log_softmax_forward, log_softmax_backward)
