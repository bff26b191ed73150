"""Linear layers: one, and two with GELU between them, the MLP of a transformer."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from ..array import Array
from ..errors import ShapeError
from .base import BadCase, Case, Gradients, Op
from .folds import sum_columns
from .matmul import HALVES, gemm
from .matmul_epilogues import linear_gelu, linear_gelu_gradient, weight_and_bias_gradients


def _check(op: str, x: Array, weight: Array, bias: Array | None) -> None:
    if weight.ndim != 2:
        raise ShapeError(f"[{op}] weight must be [N,K], got shape {weight.shape}.")
    if not x.ndim or x.shape[-1] != weight.shape[1]:
        raise ShapeError(f"[{op}] x must be [...,{weight.shape[1]}] like weight of shape {weight.shape}, "
                         f"got shape {x.shape}.")
    _check_bias(op, weight, bias)


def _check_bias(op: str, weight: Array, bias: Array | None, number: str = "") -> None:
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ShapeError(f"[{op}] bias{number} must be [{weight.shape[0]}] like weight{number} of shape "
                         f"{weight.shape}, got shape {bias.shape}.")


def _rows(x: Array) -> Array:
    return x.reshape(math.prod(x.shape[:-1]), x.shape[-1])


def _forward(x: Array, weight: Array, bias: Array | None) -> Array:
    return gemm(x.reshape(1, *x.shape), weight.reshape(1, *weight.shape), tb=True, bias=bias)


def _to_input(dout: Array, weight: Array, into: Array | None = None) -> Array:
    """The gradient of x: dout [M,N] weight [N,K]."""
    return gemm(dout.reshape(1, *dout.shape), weight.reshape(1, *weight.shape), out=into)


def _to_layer(dout: Array, x: Array, weight: bool, bias: bool,
              into: tuple[Array | None, Array | None]) -> tuple[Array | None, Array | None]:
    """The gradients of weight and bias, those that are wanted."""
    if weight and bias and x.size and dout.backend.joins("sums", dout.dtype):
        return weight_and_bias_gradients(dout, x, *into)
    made = gemm(dout.reshape(1, *dout.shape), x.reshape(1, *x.shape), ta=True, out=into[0]) if weight else None
    sums = sum_columns(dout, into[1]) if bias else None
    return made.reshape(dout.shape[1], x.shape[1]) if made is not None else None, sums


class Linear(Op):
    """x [..., K] times the transpose of weight [N, K], plus bias [N] if given: [..., N]."""

    def forward(self, x: Array, weight: Array, bias: Array | None = None) -> Array:
        _check("linear", x, weight, bias)
        self.with_bias = bias is not None
        self.save(x, weight)
        return _forward(_rows(x), weight, bias).reshape(*x.shape[:-1], weight.shape[0])

    def backward(self, dout: Array) -> Gradients:
        x, weight = self.saved
        dx_into, *into = (*self.into, None, None, None)[:3]
        dout = _rows(dout)
        dx = _to_input(dout, weight, dx_into).reshape(*x.shape) if self.needs[0] else None
        return dx, *_to_layer(dout, _rows(x), self.needs[1], self.with_bias and self.needs[2], (into[0], into[1]))

    @classmethod
    def cases(cls, rng: np.random.Generator) -> Iterator[Case]:
        for name, x, columns in (("odd", (5, 7), 3), ("by four", (2, 6, 8), 12), ("vector", (9,), 4),
                                 ("tiles", (70, 33), 65), ("no rows", (0, 3), 2), ("nothing summed", (2, 0), 3),
                                 ("no columns", (2, 3), 0)):
            for bias in (True, False):
                inputs = rng.standard_normal(x), rng.standard_normal((columns, x[-1]))
                yield Case(f"{name} bias={bias}", (*inputs, rng.standard_normal(columns) if bias else None))
        for x, columns in (((2, 66, 24), 140), ((30, 136), 72)):
            inputs = rng.standard_normal(x), rng.standard_normal((columns, x[-1]))
            yield Case(f"tensor cores {columns}", (*inputs, rng.standard_normal(columns)), {}, HALVES,
                       differentiable=False)

    @classmethod
    def bad_cases(cls) -> Iterator[BadCase]:
        x, weight = np.zeros((2, 3)), np.zeros((4, 3))
        yield BadCase("x", (np.zeros((2, 4)), weight, None), r"\[linear\] x must be \[\.\.\.,3\] .* got shape \(2, 4\)")
        yield BadCase("weight", (x, np.zeros((1, 4, 3)), None), r"\[linear\] weight must be \[N,K\]")
        yield BadCase("bias", (x, weight, np.zeros(3)), r"\[linear\] bias must be \[4\] .* got shape \(3,\)")


class LinearGeluLinear(Op):
    """Two linear layers with GELU between them, x [..., K] -> [..., N], where the backend joins GELU with products:
    weight [H,K], bias [H], weight2 [N,H], bias2 [N]; approximate is "none" (by erf) or "tanh"."""

    def forward(self, x: Array, weight: Array, bias: Array, weight2: Array, bias2: Array,
                approximate: str = "none") -> Array:
        _check(self.name, x, weight, bias)
        if approximate not in ("none", "tanh"):
            raise ShapeError(f"[{self.name}] approximate must be none or tanh, got {approximate!r}.")
        if weight2.ndim != 2 or weight2.shape[1] != weight.shape[0]:
            raise ShapeError(f"[{self.name}] weight2 must be [N,{weight.shape[0]}], as weight is {weight.shape}, "
                             f"got shape {weight2.shape}.")
        _check_bias(self.name, weight2, bias2, "2")
        self.approximate = int(approximate == "tanh")
        hidden, pre = linear_gelu(_rows(x), weight, bias, self.approximate)
        self.save(x, weight, pre, hidden, weight2)
        return _forward(hidden, weight2, bias2).reshape(*x.shape[:-1], weight2.shape[0])

    def backward(self, dout: Array) -> Gradients:
        x, weight, pre, hidden, weight2 = self.saved
        into, needs, dout, rows = (*self.into, *[None] * 5)[:5], self.needs, _rows(dout), _rows(x)
        dweight2, dbias2 = _to_layer(dout, hidden, needs[3], needs[4], (into[3], into[4]))
        dx = dweight = dbias = None
        if any(needs[:3]):
            dpre = linear_gelu_gradient(dout, weight2, pre, self.approximate)
            dweight, dbias = _to_layer(dpre, rows, needs[1], needs[2], (into[1], into[2]))
            dx = _to_input(dpre, weight, into[0]).reshape(*x.shape) if needs[0] else None
        return dx, dweight, dbias, dweight2, dbias2

    @classmethod
    def cases(cls, rng: np.random.Generator) -> Iterator[Case]:
        def case(name: str, x: tuple[int, ...], hidden: int, columns: int, way: str = "tanh",
                 dtypes: tuple[str, ...] = ("float32", "float16", "bfloat16")) -> Case:
            shapes = x, (hidden, x[-1]), (hidden,), (columns, hidden), (columns,)
            inputs = tuple(rng.standard_normal(s) / (s[1] ** 0.5 if len(s) == 2 and s is not x else 1) for s in shapes)
            return Case(name, inputs, {"approximate": way}, dtypes, dtypes is not HALVES)
        yield case("odd", (3, 5), 7, 3)
        yield case("by eight", (2, 3, 8), 16, 12)
        yield case("vector", (8,), 4, 8, "none")
        yield case("tiles", (67, 12), 72, 68, "none", ("float32",))
        yield case("no rows", (0, 4), 8, 4, "none")
        yield case("tensor cores", (2, 66, 24), 144, 72, "tanh", HALVES)

    @classmethod
    def bad_cases(cls) -> Iterator[BadCase]:
        good = x, weight, bias, weight2, bias2 = [np.zeros(s) for s in ((2, 3), (4, 3), (4,), (5, 4), (5,))]
        for name, at, given, message in (
                ("x", 0, np.zeros((2, 4)), r"x must be \[\.\.\.,3\]"), ("weight", 1, bias, r"weight must be \[N,K\]"),
                ("bias", 2, bias2, r"bias must be \[4\]"), ("weight2", 3, weight, r"weight2 must be \[N,4\]"),
                ("bias2", 4, bias, r"bias2 must be \[5\]")):
            yield BadCase(name, tuple(given if i == at else v for i, v in enumerate(good)),
                          r"\[linear_gelu_linear\] " + message)
        yield BadCase("approximate", (x, weight, bias, weight2, bias2), "approximate must be none or tanh",
                      {"approximate": "erf"})
