"""Sum, Mean, Prod, Max, Min, Any, All: out = op over x's dims, as in PyTorch.

`dim` is a tuple of sorted, non-negative dims, () for all of them. Sums and products of integers and bools are int32.
The gradient of Max and Min is shared evenly among equal elements (torch.amax); that of Prod is right at zeros too.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import numpy as np

from ..array import Array
from ..dtypes import DType, bool_, int32
from .base import BadCase, Case, Gradients, Op
from .folds import (
    Dims,
    accumulator,
    all_dims,
    cases_of_shapes,
    reduced,
    reduced_shape,
    require_elements,
    require_floating,
    size_of,
    sum_columns,
    sum_to,
    total,
)
from .reduce_backward import along, spread
from .statistics import ArgMax, ArgMin, LogSumExp, Std, Var

__all__ = ["All", "Any", "ArgMax", "ArgMin", "LogSumExp", "Max", "Mean", "Min", "Prod", "Std", "Sum", "Var", "reduced",
           "sum_columns", "sum_to", "total"]


class _Reduction(Op):
    """What the ops of this file share: shapes and dims, kept for backward."""

    fold: ClassVar[str] = ""

    def _reduce(self, x: Array, dim: Dims, keepdim: bool, dtype: DType, scale: float = 1.0) -> Array:
        self.shape, self.dims = x.shape, all_dims(x.shape, dim)
        y = reduced(self.fold, x, self.dims, dtype, scale)
        return y.reshape(*reduced_shape(x.shape, self.dims, keepdim))

    def _slot(self) -> Array | None:
        return self.into[0] if self.into else None


class Sum(_Reduction):
    fold = "sum"

    def forward(self, x: Array, dim: Dims = (), keepdim: bool = False) -> Array:
        return self._reduce(x, dim, keepdim, x.dtype if x.dtype is not bool_ else int32)

    def backward(self, dy: Array) -> Gradients:
        return (spread("sum", self.shape, self.dims, dy, out=self._slot()),)

    @classmethod
    def cases(cls, rng: np.random.Generator) -> Iterator[Case]:
        yield from cases_of_shapes(rng)
        yield Case("empty", (np.zeros((3, 0)),), {"dim": (1,)})
        yield Case("no_result", (np.zeros((0, 3)),), {"dim": (1,)})
        yield Case("ints", (rng.integers(-9, 9, (5, 70), dtype=np.int32),), {"dim": (1,)}, ("float32",), False)
        yield Case("bools", (rng.random((9, 7)) < 0.5,), {"dim": (0,)}, ("float32",), False)


class Mean(_Reduction):
    fold = "sum"

    def forward(self, x: Array, dim: Dims = (), keepdim: bool = False) -> Array:
        require_floating("mean", x.dtype)
        count = size_of(x.shape, all_dims(x.shape, dim))
        self.scale = 1.0 / count if count else float("nan")
        return self._reduce(x, dim, keepdim, x.dtype, self.scale)

    def backward(self, dy: Array) -> Gradients:
        return (spread("sum", self.shape, self.dims, dy, scale=self.scale, out=self._slot()),)

    @classmethod
    def cases(cls, rng: np.random.Generator) -> Iterator[Case]:
        return cases_of_shapes(rng)

    @classmethod
    def bad_cases(cls) -> Iterator[BadCase]:
        yield BadCase("ints", (np.ones((2, 2), np.int32),), r"\[mean\] x must be floating, got int32")


class Prod(_Reduction):
    fold = "prod"

    def forward(self, x: Array, dim: Dims = (), keepdim: bool = False) -> Array:
        self.save(x)
        return self._reduce(x, dim, keepdim, x.dtype if x.dtype is not bool_ else int32)

    def backward(self, dy: Array) -> Gradients:
        x, = self.saved
        statistic = accumulator(x.dtype)
        rest = reduced("nonzero_prod", x, self.dims, statistic)
        zeros = reduced("zeros", x, self.dims, statistic)
        return (spread("prod", self.shape, self.dims, x, rest, zeros, dy, out=self._slot()),)

    @classmethod
    def cases(cls, rng: np.random.Generator) -> Iterator[Case]:
        for case in cases_of_shapes(rng):
            x = np.exp(0.01 * np.asarray(case.inputs[0]))
            if x.size > 1000:  # products that are exact, because rounding errors of thousands of factors add up
                x = np.sign(x - 1)
                x.flat[::1009] = 1.5
            yield Case(case.name, (np.asarray(x),), case.options, case.dtypes, case.differentiable)
        x = rng.standard_normal((4, 5)) + 3
        x[1, 2] = x[2, 0] = x[2, 3] = 0
        yield Case("zeros", (x,), {"dim": (1,)})
        yield Case("zero_columns", (x,), {"dim": (0,)})
        yield Case("empty", (np.zeros((0, 3)),), {"dim": (0,)})
        yield Case("ints", (rng.integers(-3, 4, (5, 8), dtype=np.int32),), {"dim": (0,)}, ("float32",), False)


class Max(_Reduction):
    fold = "max"

    def forward(self, x: Array, dim: Dims = (), keepdim: bool = False) -> Array:
        require_elements(self.name, x.shape, all_dims(x.shape, dim))
        y = self._reduce(x, dim, keepdim, x.dtype)
        self.save(x, y)
        return y

    def backward(self, dy: Array) -> Gradients:
        x, y = self.saved
        count = reduced("ties", x, self.dims, accumulator(x.dtype), centre=(along(y, self.shape, self.dims),))
        return (spread("max", self.shape, self.dims, x, y, dy, count, out=self._slot()),)

    @classmethod
    def cases(cls, rng: np.random.Generator) -> Iterator[Case]:
        for case in cases_of_shapes(rng):
            x = np.asarray(case.inputs[0])
            if x.size > 200:  # distinct in 16 bits too, or nearly so
                many = np.asarray(rng.integers(-99, 99, x.shape) / 4.0)
                yield Case(case.name, (many,), case.options, differentiable=False)
            else:
                few = np.asarray(rng.permutation(x.size).reshape(x.shape) - 50.0)
                yield Case(case.name, (few,), case.options)
        yield Case("ties", (rng.integers(0, 3, (4, 9)).astype(np.float64),), {"dim": (1,)}, differentiable=False)
        yield Case("ties_groups", (rng.integers(0, 2, (3, 2, 3)) - 2.0,), {"dim": (0, 2)}, differentiable=False)
        yield Case("ints", (rng.integers(-9, 9, (5, 70), dtype=np.int32),), {"dim": (1,)}, ("float32",), False)
        yield Case("bools", (rng.random((9, 7)) < 0.2,), {"dim": (0,)}, ("float32",), False)

    @classmethod
    def bad_cases(cls) -> Iterator[BadCase]:
        yield BadCase("empty", (np.ones((2, 0)),), r"dim 1 must have elements, got shape \(2, 0\)", {"dim": (1,)})


class Min(Max):
    fold = "min"


class Any(_Reduction):
    fold = "any"

    def forward(self, x: Array, dim: Dims = (), keepdim: bool = False) -> Array:
        return self._reduce(x, dim, keepdim, bool_)

    @classmethod
    def cases(cls, rng: np.random.Generator) -> Iterator[Case]:
        for shape, dim in (((7,), ()), ((5, 67), (1,)), ((40, 6), (0,)), ((3, 4, 5), (0, 2)), ((9000,), (0,))):
            for share in (0.05, 0.95):
                bits = rng.random(shape) < share
                where = {"dim": dim, "keepdim": len(shape) == 2}
                yield Case(f"bools_{share}", (bits,), where, ("float32",), False)
                yield Case(f"floats_{share}", (bits * rng.standard_normal(shape),), where, differentiable=False)
        yield Case("empty", (np.zeros((2, 0)),), {"dim": (1,)}, differentiable=False)


class All(Any):
    fold = "all"
