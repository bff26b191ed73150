"""BiasGelu: gelu(x + bias) (Hendrycks, Gimpel 2016, arXiv 1606.08415), the middle of a transformer's MLP in one pass.

    gelu(a) = a * Phi(a),                                              gelu'(a) = Phi(a) + a * phi(a)
    tanh:  gelu(a) = a / 2 * (1 + tanh(sqrt(2 / pi) * (a + 0.044715 a^3)))
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from ..array import Array, run
from ..dtypes import bfloat16, float16
from ..errors import ShapeError
from ..kernel import Kernel, kernel
from .base import BadCase, Case, Gradients, Op
from .blocks import BLOCK, each, row_blocks
from .numpy_math import erf
from .partials import GROUP_ROWS, groups_of, sum_partials

_INNER = math.sqrt(2 / math.pi)
# tanh(a q(a^2)) is erf(a / sqrt 2) within 6e-8: a minimax fit of ours over [0, 6.2], highest power first. In float32 it
# takes half the passes over memory that the fraction in numpy_math.erf does.
_ERF = (1.7562760154e-9, -1.3226623267e-7, 3.9647726341e-6, -5.5306314280e-5, -3.2594749693e-5, 3.6333084413e-2,
        0.79788494149)

MOST_GROUPS = 512  # of rows: a row of an MLP's inner layer takes several workgroups, and all should run at once
_SHARES = 4  # at least, of a backward pass's work, for the cores

# ---- kernels --------------------------------------------------------------------------------------------------------


def _in_blocks(function: Callable[..., Any], x: Any, *others: Any) -> Any:
    """function(rows of each) for blocks of rows."""
    out = np.empty_like(x)

    def work(rows: slice) -> None:
        out[rows] = function(x[rows], *[o[rows] for o in others])
    each(row_blocks(x), work)
    return out


def _tanh_inner(a: Any, square: Any) -> Any:
    """tanh(sqrt(2/pi) (a + 0.044715 a^3)), computed in the memory of a's square."""
    square *= 0.044715 * _INNER
    square += _INNER
    square *= a
    return np.tanh(square, out=square)


def _erf(a: Any) -> Any:
    """erf(a / sqrt(2))."""
    if a.dtype != np.float32:
        return erf(a * math.sqrt(0.5))
    square = a * a
    total = square * np.float32(_ERF[0])
    for c in _ERF[1:-1]:
        total += np.float32(c)
        total *= square
    total += np.float32(_ERF[-1])
    total *= a
    return np.tanh(total, out=total)


def gelu(a: Any, approximate: int) -> Any:
    inner = _tanh_inner(a, a * a) if approximate else _erf(a)
    inner += 1
    inner *= a
    inner *= 0.5
    return inner


def gelu_slope(a: Any, approximate: int) -> Any:
    square = a * a
    if approximate:
        t = _tanh_inner(a, square.copy())
        square *= 3 * 0.044715 * _INNER
        square += _INNER
        square *= a
        slope = np.multiply(t, t)
        np.subtract(1, slope, out=slope)
        slope *= square
        slope += t
        slope += 1
        slope *= 0.5
        return slope
    square *= -0.5
    bell = np.exp(square, out=square)
    bell *= a
    bell *= 1 / math.sqrt(2 * math.pi)
    phi = _erf(a)
    phi *= 0.5
    phi += 0.5
    phi += bell
    return phi


@kernel("x[N,C] bias[C] -> out[N,C] | approximate:u32", groups="cdiv(N * (C // W), BLOCK)", software_block=64,
        static="C approximate", vector="C")
def bias_gelu_forward(x: Any, bias: Any, approximate: int) -> Any:
    """gelu(x + bias), exact or (approximate = 1) by tanh."""
    return _in_blocks(lambda x: gelu(x + bias, approximate), x)


@kernel("dout[N,C] x[N,C] bias[C] -> dx[N,C] partial:f32[S,P,C] | S:u32 P:u32 approximate:u32",
        groups="S * cdiv(C // W, BLOCK)", block=64, software_block=64, static="C P approximate", vector="C")
def bias_gelu_backward(dout: Any, x: Any, bias: Any, S: int, P: int, approximate: int) -> Any:
    """dx = dout * gelu'(x + bias), and for each of S workgroups its rows' sum of dx (P = 1)."""
    dx, partial = np.empty_like(x), np.zeros((S, P, x.shape[1]), x.dtype)

    def work(groups: slice) -> None:
        for start in range(0, len(x), S):
            rows = slice(start + groups.start, min(start + groups.stop, len(x)))
            made = np.multiply(gelu_slope(x[rows] + bias, approximate), dout[rows], out=dx[rows])
            partial[groups.start:groups.start + len(made)] += made[:, None][:, :P]
    step = max(1, min(BLOCK // max(1, x.shape[1]), -(-S // _SHARES)))
    each([slice(start, min(start + step, S)) for start in range(0, S, step)], work)
    return dx, partial


# 16 bytes an invocation, of 16-bit elements too
bias_gelu_forward.variant("wide", "cuda", lambda device, dims: dims["C"] % 8 == 0,
                          groups="cdiv(N * (C // 8), BLOCK)", block=256, dtypes=(float16, bfloat16))
bias_gelu_backward.variant("wide", "cuda", lambda device, dims: dims["C"] % 8 == 0,
                           groups="S * cdiv(C // 8, BLOCK)", block=64, dtypes=(float16, bfloat16))


def kernel_cases(rng: np.random.Generator) -> Iterator[tuple[Kernel, tuple[np.ndarray, ...], dict[str, Any]]]:
    """Sample launches: without sums, and with more rows to a workgroup than an op's cases have."""
    for rows, width, groups, sums in ((5, 7, 2, 0), (70, 24, 3, 1), (9, 300, 9, 0), (33, 520, 2, 1)):
        dout, x = rng.standard_normal((2, rows, width))
        yield bias_gelu_backward, (dout, x, rng.standard_normal(width)), {"S": groups, "P": sums, "approximate": 1}


# ---- op -------------------------------------------------------------------------------------------------------------

class BiasGelu(Op):
    """gelu(x + bias) of x [..., C] and bias [C]; approximate is "none" (by erf) or "tanh"."""

    def forward(self, x: Array, bias: Array, approximate: str = "none") -> Array:
        if not x.ndim or bias.shape != x.shape[-1:]:
            raise ShapeError(f"[bias_gelu] bias must have shape {x.shape[-1:]}, got {bias.shape}.")
        if approximate not in ("none", "tanh"):
            raise ShapeError(f"[bias_gelu] approximate must be none or tanh, got {approximate!r}.")
        self.approximate = int(approximate == "tanh")
        self.save(x, bias)
        out: Array = run(bias_gelu_forward, _rows(x), bias, approximate=self.approximate)
        return out.reshape(*x.shape)

    def backward(self, dout: Array) -> Gradients:
        x, bias = self.saved
        rows = _rows(x)
        groups = groups_of(rows.shape[0], MOST_GROUPS, GROUP_ROWS if self.needs[1] else 1)
        dx, partial = run(bias_gelu_backward, _rows(dout), rows, bias, S=groups, P=int(self.needs[1]),
                          approximate=self.approximate)
        dbias = None
        if self.needs[1]:
            slot = self.into[1] if len(self.into) > 1 else None
            dbias, _ = run(sum_partials, partial, A=1, B=0, out=(slot,),
                           types={"F": x.dtype if slot is None else slot.dtype})
            dbias = dbias.reshape(*bias.shape)
        return dx.reshape(*x.shape), dbias

    @classmethod
    def cases(cls, rng: np.random.Generator) -> Iterator[Case]:
        shapes = {"odd": (3, 5), "vector": (2, 3, 8), "one_row": (12,), "no_rows": (0, 8), "wide": (3, 301),
                  "many_rows": (70, 12)}
        for name, shape in shapes.items():
            yield Case(name, (rng.standard_normal(shape) * 2, rng.standard_normal(shape[-1:])))
        for name, shape in (("tanh", (3, 5)), ("tanh_vector", (4, 24))):
            inputs = (rng.standard_normal(shape) * 2, rng.standard_normal(shape[-1:]))
            yield Case(name, inputs, {"approximate": "tanh"})
        for way in ("none", "tanh"):
            far = np.array([[-60.0, -9.0, -4.0, 0.0, 4.0, 9.0, 60.0]])
            yield Case(f"far_{way}", (far, np.zeros(7)), {"approximate": way})

    @classmethod
    def bad_cases(cls) -> Iterator[BadCase]:
        yield BadCase("bias", (np.zeros((2, 4)), np.zeros(3)), r"\[bias_gelu\] bias must have shape \(4,\), got \(3,\)")
        yield BadCase("approximate", (np.zeros((2, 4)), np.zeros(4)), r"approximate must be none or tanh",
                      {"approximate": "erf"})


def _rows(x: Array) -> Array:
    return x.reshape(math.prod(x.shape[:-1]), x.shape[-1])
