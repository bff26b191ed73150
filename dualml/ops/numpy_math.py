"""The functions of shaders/lib/math.wgsl for NumPy, and the evaluator of shared expressions."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from typing import Any

import numpy as np

from .blocks import each, row_blocks

_LITERAL = re.compile(r"(?<![\w.])(\d+\.\d*(?:[eE][-+]?\d+)?)f\b")

# Coefficients of W. J. Cody, "Rational Chebyshev approximations for the error function", 1969, numerator first.
_SMALL = ((1.85777706184603153e-1, 3.16112374387056560e0, 1.13864154151050156e2, 3.77485237685302021e2,
           3.20937758913846947e3),
          (1.0, 2.36012909523441209e1, 2.44024637934444173e2, 1.28261652607737228e3, 2.84423683343917062e3))
_MIDDLE = ((2.15311535474403846e-8, 5.64188496988670089e-1, 8.88314979438837594e0, 6.61191906371416295e1,
            2.98635138197400131e2, 8.81952221241769090e2, 1.71204761263407058e3, 2.05107837782607147e3,
            1.23033935479799725e3),
           (1.0, 1.57449261107098347e1, 1.17693950891312499e2, 5.37181101862009858e2, 1.62138957456669019e3,
            3.29079923573345963e3, 4.36261909014324716e3, 3.43936767414372164e3, 1.23033935480374942e3))
_LARGE = ((1.63153871373020978e-2, 3.05326634961232344e-1, 3.60344899949804439e-1, 1.25781726111229246e-1,
           1.60837851487422766e-2, 6.58749161529837803e-4),
          (1.0, 2.56852019228982242e0, 1.87295284992346725e0, 5.27905102951428412e-1, 6.05183413124413191e-2,
           2.33520497626869185e-3))
# The float32 minimax fraction x P(x^2)/Q(x^2) on [-4, 4] that Eigen and XLA use; shaders/lib/math.wgsl has it too.
_P32 = (-2.72614225801306e-10, 2.77068142495902e-08, -2.10102402082508e-06, -5.69250639462346e-05,
        -7.34990630326855e-04, -2.95459980854025e-03, -1.60960333262415e-02)
_Q32 = (-1.45660718464996e-05, -2.13374055278905e-04, -1.68282697438203e-03, -7.37332916720468e-03,
        -1.42647390514189e-02)


def _horner(x: np.ndarray, coefficients: tuple[float, ...]) -> np.ndarray:
    total = np.full_like(x, coefficients[0])
    for c in coefficients[1:]:
        total *= x
        total += x.dtype.type(c)
    return total


def erf(x: Any) -> Any:
    """The error function, to the last bits of the dtype given."""
    x = np.asarray(x)
    if x.dtype == np.float32:
        x = np.clip(x, np.float32(-4), np.float32(4))
        square = x * x
        return x * _horner(square, _P32) / _horner(square, _Q32)
    size, sign = np.abs(x), np.sign(x)
    square = size * size
    result = size * _horner(square, _SMALL[0]) / _horner(square, _SMALL[1])
    middle, large = size > 0.46875, size > 4.0
    y = size[middle]
    result[middle] = 1.0 - np.exp(-y * y) * _horner(y, _MIDDLE[0]) / _horner(y, _MIDDLE[1])
    y = size[large]
    z = 1.0 / (y * y)
    tail = (0.5641895835477563 - z * _horner(z, _LARGE[0]) / _horner(z, _LARGE[1])) / y
    result[large] = 1.0 - np.exp(-y * y) * tail
    return result * sign


def _sigmoid(x: Any) -> Any:
    return 1.0 / (1.0 + np.exp(-x))  # by tanh it would lose the digits of small results


def _sign(x: Any) -> Any:
    """-1, 0 or 1; 0 of NaN, as in PyTorch and unlike np.sign."""
    return np.asarray(x > 0, x.dtype) - np.asarray(x < 0, x.dtype)


def _dtype_of(*values: Any) -> np.dtype:
    arrays = [v for v in values if isinstance(v, np.ndarray) and v.dtype != np.bool_]
    return np.result_type(*arrays) if arrays else np.dtype(np.float64)


def _select(otherwise: Any, then: Any, condition: Any) -> Any:
    if any(isinstance(v, np.ndarray) and v.dtype == np.bool_ for v in (otherwise, then)):
        return np.where(condition, then, otherwise)
    dtype = _dtype_of(otherwise, then)
    return np.where(condition, np.asarray(then, dtype), np.asarray(otherwise, dtype))


def _share(a: Any, b: Any) -> Any:
    """1 where a is larger, 1/2 where equal, else 0, and 1 where one is NaN: how maximum divides its gradient."""
    dtype = _dtype_of(a, b)
    return (np.asarray(~(a <= b), dtype) + np.asarray(~(a < b), dtype)) * dtype.type(0.5)


def _gelu_tanh_slope(a: Any) -> Any:
    """Derivative of the tanh form of gelu."""
    square = a * a
    t = np.tanh(0.79788456080286536 * a * (1.0 + 0.044715 * square))
    return 0.5 * (1.0 + t) + 0.5 * a * (1.0 - t * t) * (0.79788456080286536 * (1.0 + 0.134145 * square))


FUNCTIONS: dict[str, Any] = {
    "exp": np.exp, "exp_": np.exp, "log": np.log, "log_": np.log, "log1p": np.log1p, "expm1": np.expm1,
    "sqrt": np.sqrt, "abs": np.abs, "sign_": _sign, "sin_": np.sin, "cos_": np.cos, "tanh_": np.tanh,
    "floor": np.floor, "ceil": np.ceil,
    "max_": np.maximum, "min_": np.minimum, "inverseSqrt": lambda x: 1.0 / np.sqrt(x), "sigmoid": _sigmoid,
    "softplus": lambda x: np.logaddexp(x, x.dtype.type(0)), "erf": erf, "power": np.power, "select": _select,
    "floor_div": np.floor_divide, "floor_mod": np.remainder,
    "share": _share, "gelu_tanh_slope": _gelu_tanh_slope, "is_nan": np.isnan, "is_inf": np.isinf,
    "is_finite": np.isfinite, "not_": np.logical_not, "__builtins__": {},
}


_ALONE = 200_000  # nanoseconds: calling other cores to a smaller piece of work costs more than it gives


def _cost(expression: str) -> float:
    """Nanoseconds that NumPy takes for an element, about."""
    kinds = {ast.BinOp: 0.1, ast.UnaryOp: 0.1, ast.Compare: 0.1, ast.Call: 0.5}
    nodes = list(ast.walk(ast.parse(expression, mode="eval")))
    return sum(kinds.get(type(n), 0) for n in nodes) + 2 * expression.count("erf(")


def compile_expression(expression: str) -> Callable[[dict[str, Any]], Any]:
    """A function from values by name to the result. Arrays that share their first dimension are done in blocks of it
    where that is much work."""
    code = compile(text := _LITERAL.sub(r"\1", expression), expression, "eval")
    alone = _ALONE / (_cost(text) or 0.1)

    def evaluate(values: dict[str, Any]) -> Any:
        arrays = {k: v for k, v in values.items() if isinstance(v, np.ndarray)}
        first = next(iter(arrays.values()), None)
        if first is None or first.size <= alone:
            return eval(code, FUNCTIONS, values)

        def part(rows: slice) -> Any:
            return eval(code, FUNCTIONS, values | {k: v[rows] for k, v in arrays.items()})

        def store(rows: slice) -> None:
            out[rows] = part(rows)
        row = part(slice(0, 1))
        if np.ndim(row) == 0:  # no array is in it
            return row
        out = np.empty(first.shape, row.dtype)
        each(row_blocks(first), store)
        return out
    return evaluate
