"""GatedUnit: act(gate) * value, the middle of a gated MLP in one pass (Shazeer 2020, arXiv 2002.05202).

Both come packed from one linear layer, x = [gate, value]. With a = gate, b = value:
    out = act(a) b,        da = d b act'(a),        db = d act(a),
where act is silu, a sigmoid(a) (SwiGLU), or gelu, exact or by tanh (GEGLU).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from ..array import Array, run
from ..errors import ShapeError
from ..kernel import kernel
from .base import BadCase, Case, Gradients, Op
from .bias_gelu import gelu, gelu_slope
from .blocks import each, row_blocks

ACTIVATIONS = ("silu", "gelu", "gelu_tanh")

# ---- kernels --------------------------------------------------------------------------------------------------------


def _sigmoid(a: Any) -> Any:
    e = np.exp(-np.abs(a))
    np.divide(np.where(a < 0, e, 1), 1 + e, out=e)
    return e


@kernel("x[M,C] -> out[N,C] | N:u32 activation:u32", groups="cdiv(N * (C // W), BLOCK)", software_block=64,
        static="C activation", vector="C")
def gated_unit_forward(x: Any, N: int, activation: int) -> Any:
    """act(row 2n) * row 2n + 1."""
    out, pairs = np.empty((N, x.shape[1]), x.dtype), x.reshape(N, 2, -1) if x.size else x.reshape(N, 2, x.shape[1])

    def work(rows: slice) -> None:
        a, b = pairs[rows, 0], pairs[rows, 1]
        act = gelu(a, activation - 1) if activation else np.multiply(s := _sigmoid(a), a, out=s)
        np.multiply(act, b, out=out[rows])
    each(row_blocks(out), work)
    return out


@kernel("dout[N,C] x[M,C] -> dx[M,C] | activation:u32", groups="cdiv(N * (C // W), BLOCK)", software_block=64,
        static="C activation", vector="C")
def gated_unit_backward(dout: Any, x: Any, activation: int) -> Any:
    """Gradients of gate and value, packed as they are."""
    pairs = x.reshape(len(dout), 2, x.shape[1])
    dx = np.empty_like(pairs)

    def work(rows: slice) -> None:
        d, a, b = dout[rows], pairs[rows, 0], pairs[rows, 1]
        if activation:
            act, slope = gelu(a, activation - 1), gelu_slope(a, activation - 1)
        else:
            s = _sigmoid(a)
            act = a * s
            slope = s + act * (1 - s)
        np.multiply(d, act, out=dx[rows, 1])
        slope *= b
        np.multiply(d, slope, out=dx[rows, 0])
    each(row_blocks(dout), work)
    return dx.reshape(x.shape)


# ---- op -------------------------------------------------------------------------------------------------------------

class GatedUnit(Op):
    """act(gate) * value of packed x [..., 2C] -> [..., C]; activation is silu, gelu or gelu_tanh."""

    def forward(self, x: Array, activation: str = "silu") -> Array:
        if not x.ndim or x.shape[-1] % 2:
            raise ShapeError(f"[gated_unit] x must be [..., 2C], got {x.shape}.")
        if activation not in ACTIVATIONS:
            raise ShapeError(f"[gated_unit] activation must be one of {', '.join(ACTIVATIONS)}, got {activation!r}.")
        self.activation = ACTIVATIONS.index(activation)
        self.save(x)
        rows, half = math.prod(x.shape[:-1]), x.shape[-1] // 2
        out: Array = run(gated_unit_forward, x.reshape(2 * rows, half), N=rows, activation=self.activation)
        return out.reshape(*x.shape[:-1], half)

    def backward(self, dout: Array) -> Gradients:
        (x,) = self.saved
        rows, half = math.prod(x.shape[:-1]), x.shape[-1] // 2
        dx: Array = run(gated_unit_backward, dout.reshape(rows, half), x.reshape(2 * rows, half),
                        activation=self.activation)
        return (dx.reshape(*x.shape),)

    @classmethod
    def cases(cls, rng: np.random.Generator) -> Iterator[Case]:
        shapes = {"odd": (3, 10), "vector": (2, 3, 16), "one_row": (24,), "one_column": (4, 2), "no_rows": (0, 8),
                  "wide": (3, 602), "many_rows": (70, 24)}
        for name, shape in shapes.items():
            yield Case(name, (rng.standard_normal(shape) * 2,))
        for way in ACTIVATIONS:
            far = np.array([[-60.0, -9.0, -4.0, 0.0, 4.0, 9.0, 60.0, *rng.standard_normal(7)]])
            yield Case(f"far_{way}", (far,), {"activation": way})
            yield Case(f"plain_{way}", (rng.standard_normal((4, 24)) * 2,), {"activation": way})

    @classmethod
    def bad_cases(cls) -> Iterator[BadCase]:
        yield BadCase("width", (np.zeros((2, 5)),), r"\[gated_unit\] x must be \[..., 2C\], got \(2, 5\)")
        yield BadCase("activation", (np.zeros((2, 4)),), "activation must be one of silu, gelu, gelu_tanh, got 'relu'",
                      {"activation": "relu"})
