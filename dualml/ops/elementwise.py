"""Elementwise ops: one row of a table makes the kernel in three languages, its gradient kernels and its tests.

A row's expression is written in the spelling that WGSL, CUDA C++ and Python share: arithmetic, comparisons and the
functions of shaders/lib/math.wgsl, with `f` literals (an unsuffixed 0.0 would be a double in CUDA). The NumPy reference
evaluates the same text. Gradient expressions may also name `d` (the incoming gradient) and `out`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np

from ..array import Array, Shape, run
from ..dtypes import DType, bool_
from ..errors import DTypeError, ShapeError
from ..kernel import Kernel, make_kernel
from . import numpy_math
from .base import BadCase, Case, Op
from .reduce import sum_to

NAMES = ("a", "b", "c")
_WORD = re.compile(r"[A-Za-z_]\w*")


@dataclass(frozen=True)
class Row:
    """One elementwise op. `kinds` are the dtype kinds its inputs take; `cond` inputs are bool whatever the others are.
    `result` is bool for predicates, else the inputs' dtype. `domain` maps normal samples to valid test inputs."""

    name: str
    inputs: str
    expression: str
    gradients: tuple[str, ...] = ()
    kinds: str = "f"
    result: str = "F"
    cond: str = ""
    domain: Callable[[np.ndarray], np.ndarray] | None = None
    doc: str = ""


def _positive(x: np.ndarray) -> np.ndarray:
    moved: np.ndarray = np.abs(x) + 0.5
    return moved


def _open_unit(x: np.ndarray) -> np.ndarray:
    limited: np.ndarray = np.tanh(x) * 0.9
    return limited


def _not_zero(x: np.ndarray) -> np.ndarray:
    return np.where(x < 0, x - 0.2, x + 0.2)


_GELU = "0.5f * a * (1.0f + erf(a * 0.70710678118654752f))"
_GELU_GRAD = ("d * (0.5f * (1.0f + erf(a * 0.70710678118654752f)) + "
              "a * 0.39894228040143268f * exp(-0.5f * a * a))")
_INNER = "0.79788456080286536f * (a + 0.044715f * a * a * a)"
_GELU_TANH = f"0.5f * a * (1.0f + tanh_({_INNER}))"
_GELU_TANH_GRAD = "d * gelu_tanh_slope(a)"

ROWS = (
    Row("add", "a b", "a + b", ("d", "d"), "fi"),
    Row("sub", "a b", "a - b", ("d", "-d"), "fi"),
    Row("mul", "a b", "a * b", ("d * b", "d * a"), "fi"),
    Row("div", "a b", "a / b", ("d / b", "-d * out / b"), domain=_not_zero),
    Row("floor_divide", "a b", "floor_div(a, b)", ("0.0f * d", "0.0f * d"), "fi", domain=_not_zero,
        doc="Rounded down, of exact quotients. Integers by 0 are 0, others are what division gives."),
    Row("remainder", "a b", "floor_mod(a, b)", ("d", "-d * floor_div(a, b)"), "fi", domain=_not_zero,
        doc="Exact, of b's sign. Of integers by 0 it is 0, of others NaN."),
    Row("pow", "a b", "power(a, b)",
        ("select(d * b * power(a, b - 1.0f), 0.0f, b == 0.0f)", "select(d * out * log_(a), 0.0f, a == 0.0f)"),
        domain=_positive),
    Row("maximum", "a b", "max_(a, b)", ("d * share(a, b)", "d * share(b, a)"), "fi",
        doc="Where both are equal each gets half of the gradient, as in PyTorch."),
    Row("minimum", "a b", "min_(a, b)", ("d * share(b, a)", "d * share(a, b)"), "fi"),
    Row("neg", "a", "-a", ("-d",), "fi"),
    Row("abs", "a", "abs(a)", ("d * sign_(a)",), "fi", domain=_not_zero),
    Row("sign", "a", "sign_(a)", ("0.0f * d",), "fi", domain=_not_zero),
    Row("exp", "a", "exp_(a)", ("d * out",)),
    Row("log", "a", "log_(a)", ("d / a",), domain=_positive),
    Row("log1p", "a", "log1p(a)", ("d / (1.0f + a)",), domain=_open_unit),
    Row("expm1", "a", "expm1(a)", ("d * (out + 1.0f)",)),
    Row("sqrt", "a", "sqrt(a)", ("0.5f * d / out",), domain=_positive),
    Row("rsqrt", "a", "inverseSqrt(a)", ("-0.5f * d * out * out * out",), domain=_positive),
    Row("reciprocal", "a", "1.0f / a", ("-d * out * out",), domain=_not_zero),
    Row("square", "a", "a * a", ("2.0f * d * a",), "fi"),
    Row("sin", "a", "sin_(a)", ("d * cos_(a)",)),
    Row("cos", "a", "cos_(a)", ("-d * sin_(a)",)),
    Row("tanh", "a", "tanh_(a)", ("d * (1.0f - out * out)",)),
    Row("sigmoid", "a", "sigmoid(a)", ("d * out * (1.0f - out)",)),
    Row("relu", "a", "select(a, 0.0f, a <= 0.0f)", ("select(0.0f, d, a > 0.0f)",), domain=_not_zero),
    Row("gelu", "a", _GELU, (_GELU_GRAD,), doc="Hendrycks and Gimpel 2016, arXiv 1606.08415, exact."),
    Row("gelu_tanh", "a", _GELU_TANH, (_GELU_TANH_GRAD,), doc="The tanh approximation of the same paper."),
    Row("silu", "a", "a * sigmoid(a)", ("d * sigmoid(a) * (1.0f + a * (1.0f - sigmoid(a)))",)),
    Row("softplus", "a", "softplus(a)", ("d * sigmoid(a)",)),
    Row("erf", "a", "erf(a)", ("d * 1.1283791670955126f * exp(-a * a)",)),
    Row("floor", "a", "floor(a)", ("0.0f * d",), domain=_not_zero),
    Row("ceil", "a", "ceil(a)", ("0.0f * d",), domain=_not_zero),
    Row("where", "a b c", "select(c, b, a)", ("", "select(0.0f, d, a)", "select(d, 0.0f, a)"), "fib", cond="a"),
    Row("clamp", "a b c", "min_(max_(a, b), c)",
        ("select(0.0f, d, (a >= b) & (a <= c))", "select(0.0f, d, (a < b) & (b <= c))",
         "select(0.0f, d, (a > c) | (b > c))"), "fi"),
    Row("clone", "a", "a", ("d",), "fib"),
    Row("eq", "a b", "a == b", kinds="fib", result="bool"),
    Row("ne", "a b", "not_(a == b)", kinds="fib", result="bool"),
    Row("lt", "a b", "a < b", kinds="fi", result="bool"),
    Row("le", "a b", "a <= b", kinds="fi", result="bool"),
    Row("gt", "a b", "a > b", kinds="fi", result="bool"),
    Row("ge", "a b", "a >= b", kinds="fi", result="bool"),
    Row("logical_and", "a b", "a & b", kinds="b", result="bool"),
    Row("logical_or", "a b", "a | b", kinds="b", result="bool"),
    Row("logical_xor", "a b", "a != b", kinds="b", result="bool"),
    Row("logical_not", "a", "not_(a)", kinds="b", result="bool"),
    Row("isnan", "a", "is_nan(a)", result="bool"),
    Row("isinf", "a", "is_inf(a)", result="bool"),
    Row("isfinite", "a", "is_finite(a)", result="bool"),
)


# ---- from an expression to a kernel ---------------------------------------------------------------------------------

@dataclass(frozen=True)
class Operand:
    """How an expression's name is read. `strides` are those of a broadcast Array over the collapsed output sizes, None
    for an Array of the output's own layout. A `number` is a uniform of the kernel. `dtype`: f32, i32 or bool."""

    name: str
    dtype: str
    number: bool = False
    strides: tuple[int, ...] | None = None

    @property
    def signature(self) -> str:
        length = "N" if self.strides is None else f"L{self.name}"
        return f"{self.name}:{'bool' if self.dtype == 'bool' else 'F'}[{length}]"

    def term(self, sizes: tuple[int, ...]) -> str:
        """The element index as a WGSL and C expression of i, the output's element index."""
        terms, below = [], 1
        for size, stride in zip(reversed(sizes), reversed(self.strides or ()), strict=True):
            place = f"(i / {below}u)" if below > 1 else "i"
            if stride:
                inside = f"({place} % {size}u)" if size else place  # the outermost size is not needed, nor known
                terms.append(f"{inside} * {stride}u" if stride > 1 else inside)
            below *= size
        return " + ".join(terms) or "0u"


def collapse(shape: Shape, operands: list[Shape]) -> tuple[Shape, list[Shape]]:
    """The output's dimensions with neighbours merged where every operand allows it, and each operand's strides over
    them (0 along a broadcast dimension)."""
    rows = []
    for given in operands:
        padded, stride, strides = (1,) * (len(shape) - len(given)) + given, 1, []
        for size in reversed(padded):
            strides.append(0 if size == 1 else stride)
            stride *= size
        rows.append(strides[::-1])
    sizes: list[int] = []
    kept: list[list[int]] = [[] for _ in operands]
    for axis, size in enumerate(shape):
        if size == 1:
            continue
        if sizes and all(k[-1] == r[axis] * size for k, r in zip(kept, rows, strict=True)):
            sizes[-1] *= size
            for k, r in zip(kept, rows, strict=True):
                k[-1] = r[axis]
        else:
            sizes.append(size)
            for k, r in zip(kept, rows, strict=True):
                k.append(r[axis])
    return tuple(sizes) or (1,), [tuple(k) or (0,) for k in kept]


def _reference(expression: str, operands: tuple[Operand, ...], inner: Shape) -> Callable[..., Any]:
    evaluate_numpy = numpy_math.compile_expression(expression)
    arrays = [o for o in operands if not o.number]
    flags = {o.name for o in operands if o.number and o.dtype == "bool"}

    def reference(*given: np.ndarray, N: int = 0, **numbers: float) -> np.ndarray:
        size = next((x.size for o, x in zip(arrays, given, strict=True) if o.strides is None), N)
        shape = (size // math.prod(inner), *inner)
        values: dict[str, Any] = {n: bool(v) if n in flags else v for n, v in numbers.items()}
        for operand, x in zip(arrays, given, strict=True):
            values[operand.name] = x.reshape(shape) if operand.strides is None else np.lib.stride_tricks.as_strided(
                x, shape, [s * x.itemsize for s in operand.strides], writeable=False)
        result = evaluate_numpy(values)
        return (result if np.shape(result) == shape else np.broadcast_to(result, shape)).reshape(-1)
    return reference


@lru_cache(4096)
def expression_kernel(name: str, expression: str, operands: tuple[Operand, ...], inner: Shape, result: str) -> Kernel:
    """The kernel of an expression; one source template, `elementwise`, serves them all. `inner` are the collapsed
    output sizes but the outermost. Four elements go at a time where N, and the innermost size, divide by 4."""
    arrays = [o for o in operands if not o.number]
    wide = not inner or inner[-1] % 4 == 0
    vector = " ".join(["N"] + [f"L{o.name}" for o in arrays if o.strides and o.strides[-1] == 1]) if wide else ""
    numbers = [f"{o.name}:{'i32' if o.dtype == 'i32' else 'f32'}" for o in operands if o.number]
    scalars = numbers if any(o.strides is None for o in arrays) else [*numbers, "N:u32"]
    signature = f"{' '.join(o.signature for o in arrays)} -> result:{result}[N] | {' '.join(scalars)}"
    return make_kernel(_reference(expression, operands, inner), signature, name=name, source="elementwise",
                       vector=vector, groups="cdiv(N, BLOCK * W)", block=256, software_block=64, kinds={"F": "fib"},
                       context={"expression": expression, "operands": operands, "sizes": (0, *inner)})


def _compute_type(dtype: DType) -> str:
    return {"f": "f32", "i": "i32", "b": "bool"}[dtype.kind]


def evaluate(name: str, expression: str, operands: dict[str, Any], shape: Shape, dtype: DType,
             result: str = "F", into: Array | None = None) -> Array:
    """Runs an expression over Arrays (broadcast to `shape`) and numbers, by name. `dtype` is the compute dtype; the
    result is written to `into` where given."""
    described = tuple([(n, v.shape, v.dtype) if isinstance(v, Array) else (n, None, dtype)
                       for n, v in operands.items()])
    made, arrays, numbers, alone, types = _prepared(name, expression, described, shape, dtype, result)
    given = {n: operands[n] for n in numbers}
    if alone is not None:
        given["N"] = alone
    flat = [operands[n] for n in arrays]
    out: Array = run(made, *[v.reshape(v.size) if len(v.shape) != 1 else v for v in flat],
                     types=types, out=(into,), **given)
    return out if out.shape == shape else out.reshape(*shape)


@lru_cache(4096)
def _prepared(name: str, expression: str, operands: tuple[tuple[str, Shape | None, DType], ...], shape: Shape,
              dtype: DType, result: str) -> tuple[Kernel, list[str], list[str], int | None, dict[str, DType] | None]:
    """The kernel for operands (name, shape or None of a number, dtype), which of them it takes as arrays and numbers,
    the number of elements where no array tells it, and the dtype of F likewise."""
    words, size = set(_WORD.findall(expression)), math.prod(shape)
    arrays = {n: (s, d) for n, s, d in operands if s is not None and n in words}
    numbers = [n for n, s, _ in operands if s is None and n in words]
    broadcast = [n for n, (s, _) in arrays.items() if math.prod(s) != size]
    sizes, strides = collapse(shape, [arrays[n][0] for n in broadcast]) if broadcast else ((size,), [])
    by_name = dict(zip(broadcast, strides, strict=True))
    described = tuple([Operand(n, _compute_type(d), strides=by_name.get(n)) for n, (_, d) in arrays.items()]
                      + [Operand(n, _compute_type(dtype), number=True) for n in numbers])
    made = expression_kernel(name, expression, described, sizes[1:], result)
    types = {"F": dtype} if result == "F" and all(d is bool_ for _, d in arrays.values()) else None
    return made, list(arrays), numbers, size if len(broadcast) == len(arrays) else None, types


def _broadcast(op: str, arrays: Sequence[Array]) -> Shape:
    first = arrays[0].shape
    if all(a.shape == first for a in arrays):
        return first
    try:
        return np.broadcast_shapes(*[a.shape for a in arrays])
    except ValueError:
        shapes = " and ".join(str(a.shape) for a in arrays)
        raise ShapeError(f"[{op}] shapes must broadcast together, got {shapes}.") from None


class Elementwise(Op):
    """The op of one row. Operands that are Python numbers come as options under their names."""

    name = "_elementwise"
    row: ClassVar[Row]

    def forward(self, *arrays: Array, **numbers: float) -> Array:
        row = self.row
        given = iter(arrays)
        self.operands: dict[str, Any] = {n: numbers[n] if n in numbers else next(given) for n in row.inputs.split()}
        self.shape = _broadcast(row.name, arrays)
        self.dtype = next((v.dtype for n, v in self.operands.items() if isinstance(v, Array) and n not in row.cond),
                          bool_)
        if self.dtype.kind not in row.kinds:
            raise DTypeError(f"[{row.name}] has no {self.dtype.name}. Cast with .float(), .int() or .bool() first.")
        out = evaluate(f"{row.name}_forward", row.expression, self.operands, self.shape, self.dtype,
                       "bool" if row.result == "bool" or self.dtype is bool_ else "F")
        self._keep(out)
        return out

    def _keep(self, out: Array) -> None:
        """Saves what the gradient expressions of the wanted inputs name."""
        if not any(self.needs):
            del self.operands
            return
        arrays = [n for n, v in self.operands.items() if isinstance(v, Array)]
        wanted = [g for n, g in zip(self.operands, self.row.gradients, strict=False)
                  if n in arrays and self.needs[arrays.index(n)]]
        words = {w for g in wanted for w in _WORD.findall(g)}
        self.kept = [n for n in [*arrays, "out"] if n in words]
        self.shapes = [self.operands[n].shape for n in arrays]
        self.save(*[out if n == "out" else self.operands[n] for n in self.kept])
        self.wants = [g for n, g in zip(self.operands, self.row.gradients, strict=False) if n in arrays]
        self.numbers = {n: v for n, v in self.operands.items() if not isinstance(v, Array)}
        del self.operands

    def backward(self, gradient: Array) -> list[Array | None]:
        values = self.numbers | dict(zip(self.kept, self.saved, strict=True)) | {"d": gradient}
        found: list[Array | None] = []
        for index, (expression, shape) in enumerate(zip(self.wants, self.shapes, strict=True)):
            if not self.needs[index] or not expression:
                found.append(None)
                continue
            whole = gradient if expression == "d" else evaluate(
                f"{self.row.name}_backward_{NAMES[index]}", expression, values, self.shape, self.dtype)
            found.append(sum_to(whole, shape))
        return found

    @classmethod
    def cases(cls, rng: np.random.Generator) -> Iterator[Case]:
        row, count = cls.row, len(cls.row.inputs.split())
        shapes = [((5,),) * count, ((3, 7, 4),) * count, ((1,),) * count, ((0, 3),) * count, ((1025,),) * count]
        if count > 1:
            shapes += [((4, 6), (6,), (1,))[:count], ((2, 1, 8), (3, 1), (8,))[:count], ((5, 1), (1, 3), ())[:count],
                       ((), (2, 3), (3,))[:count]]
        for index, group in enumerate(shapes):
            inputs = tuple(_sample(row, n, s, rng) for n, s in zip(row.inputs.split(), group, strict=True))
            plain = row.kinds == "b" or (index > 1)
            yield Case(f"{'x'.join(map(str, group[0])) or 'scalar'}-{index}", inputs,
                       dtypes=("float32",) if plain else ("float32", "float16", "bfloat16"),
                       differentiable=bool(row.gradients))
        if "i" in row.kinds and not row.cond:
            whole = tuple(rng.integers(-9, 9, (4, 5)).astype(np.int32) for _ in range(count))
            yield Case("int32", whole, dtypes=("float32",), differentiable=False)

    @classmethod
    def bad_cases(cls) -> Iterator[BadCase]:
        row, count = cls.row, len(cls.row.inputs.split())
        if count > 1:
            first: np.ndarray = np.zeros((2, 3), np.bool_ if row.kinds == "b" or row.cond else np.float64)
            rest: list[np.ndarray] = [np.zeros((4,), np.bool_ if row.kinds == "b" else np.float64)] * (count - 1)
            yield BadCase("shapes", (first, *rest), r"must broadcast together")


def _sample(row: Row, name: str, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    if row.kinds == "b" or name in row.cond:
        return rng.random(shape) < 0.5
    x = np.asarray(rng.standard_normal(shape))
    if row.name == "clamp" and name != "a":  # a clear interval, away from where the slope jumps
        return np.abs(x) * 0.1 + 0.5 if name == "c" else -np.abs(x) * 0.1 - 0.5
    return np.asarray(row.domain(x)) if row.domain else x


def _make(row: Row) -> type[Elementwise]:
    label = "".join(part.title() for part in row.name.split("_"))
    return type(label, (Elementwise,), {"name": row.name, "row": row, "__doc__": f"{row.expression}. {row.doc}".strip(),
                                        "__module__": __name__})


ELEMENTWISE: dict[str, type[Elementwise]] = {row.name: _make(row) for row in ROWS}
