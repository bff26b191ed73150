"""Dropout: out = x / (1 - rate) where kept, 0 where dropped, dropped with probability `rate`.

Source: Srivastava et al., "Dropout: A Simple Way to Prevent Neural Networks from Overfitting", JMLR 15, 2014.

No mask is kept: backward is the same kernel on the gradient, which makes the same random words again.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ..array import Array, run
from ..errors import ShapeError
from ..kernel import kernel
from .base import BadCase, Case, Op
from .random import random_words


@kernel("x[N] state:u32[4] -> out[N] | offset:u32 threshold:u32 scale", groups="cdiv(N, 4*BLOCK)", software_block=64,
        vector="N")
def dropout_forward(x: np.ndarray, state: np.ndarray, offset: int, threshold: int, scale: float) -> np.ndarray:
    """An element is kept where its word is not below threshold."""
    kept = random_words(state, offset, x.size) >= np.uint32(threshold)
    out: np.ndarray = x * x.dtype.type(scale)
    out *= kept
    return out


def threshold(rate: float) -> tuple[int, float]:
    """The word from which an element is kept, and what the kept ones are multiplied by."""
    if not 0 <= rate <= 1:
        raise ShapeError(f"[dropout] rate must be from 0 to 1, got {rate}.")
    return (min(round(rate * 2**32), 2**32 - 1), 1 / (1 - rate)) if rate < 1 else (2**32 - 1, 0.0)


class Dropout(Op):
    """x and the generator's state; `offset` is where in its stream this application begins."""

    def forward(self, x: Array, state: Array, rate: float, offset: int) -> Array:
        self.options = (offset, *threshold(rate))
        self.state = state  # not saved by version: a replay advances the base before the forward, not between the two
        return self._apply(x)

    def _apply(self, x: Array) -> Array:
        offset, bar, scale = self.options
        out: Array = run(dropout_forward, x.reshape(x.size), self.state, offset=offset, threshold=bar, scale=scale)
        return out.reshape(*x.shape)

    def backward(self, gradient: Array) -> tuple[Array, None]:
        return self._apply(gradient), None

    @classmethod
    def cases(cls, rng: np.random.Generator) -> Iterator[Case]:
        state = np.array([12345, 678, 2**32 - 5, 9], np.uint32)  # the base carries over on the way
        for shape, rate in [((4, 6), 0.3), ((3, 7, 5), 0.5), ((1,), 0.5), ((0, 3), 0.1), ((1025,), 0.9), ((8,), 0.0),
                            ((8,), 1.0)]:
            yield Case(f"{'x'.join(map(str, shape))}-{rate}", (rng.standard_normal(shape), state),
                       {"rate": rate, "offset": 3})

    @classmethod
    def bad_cases(cls) -> Iterator[BadCase]:
        state = np.zeros(4, np.uint32)
        yield BadCase("rate", (np.zeros(3), state), r"rate must be from 0 to 1", {"rate": 1.5, "offset": 0})
        yield BadCase("state", (np.zeros(3), state[:3]), r"state must be \[4\]", {"rate": 0.5, "offset": 0})
