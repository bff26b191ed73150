"""Var, Std, LogSumExp, ArgMax, ArgMin over dims. Kernels by rows; other layouts are permuted to rows first.

var = sum((x - mean)^2) / max(0, K - correction). The pieces of a long row are joined after Chan, Golub and LeVeque
1979, "Updating formulae and a pairwise algorithm for computing sample variances".
logsumexp = max + log(sum(exp(x - max))).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import ClassVar

import numpy as np

from ..array import Array, run
from ..errors import DTypeError
from ..kernel import KERNELS, Kernel, kernel, make_kernel
from .base import BadCase, Case, Gradients, Op
from .folds import (
    Dims,
    all_dims,
    cases_of_shapes,
    piece_bounds,
    reduced_shape,
    require_elements,
    require_floating,
    row_pieces,
    row_unit,
    size_of,
)
from .reduce_backward import spread
from .strided import permuted

# ---- kernels --------------------------------------------------------------------------------------------------------


def _pieces(x: np.ndarray, pieces: int) -> list[np.ndarray]:
    bounds = piece_bounds(x.shape[1], pieces, row_unit(x.shape[1]))
    return [x[:, begin:end] for begin, end in bounds]


@kernel("x[N,K] -> out:A[N,S] exact:f32[N,S] mean:f32[N,S] | scale root:u32 S:u32", groups="N*S", block=128,
        software_block=8, vector="K")
def var_rows(x: np.ndarray, scale: float, root: int, S: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The scaled sum of squared deviations of each piece, or its root: as the result and unrounded; and the mean."""
    means = np.stack([p.mean(axis=1) for p in _pieces(x, S)], 1)
    deviations = [p - means[:, s:s + 1] for s, p in enumerate(_pieces(x, S))]
    squares = np.stack([np.square(d, out=d).sum(axis=1) for d in deviations], 1) * scale
    made = np.sqrt(squares) if root else squares
    return made, made, means


@kernel("squares:f32[N,S] means:f32[N,S] -> out:A[N] exact:f32[N] mean:f32[N] | K:u32 scale root:u32", groups="N",
        block=128, software_block=8)
def var_merge(squares: np.ndarray, means: np.ndarray, K: int, scale: float,
              root: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """var_rows of the whole rows, from unscaled sums of their pieces."""
    lengths = np.array([end - begin for begin, end in piece_bounds(K, means.shape[1], row_unit(K))], means.dtype)
    mean = (means * lengths).sum(axis=1) / K
    total = (squares + (means - mean[:, None]) ** 2 * lengths).sum(axis=1) * scale
    made = np.sqrt(total) if root else total
    return made, made, mean


@kernel("x[N,K] -> out:A[N,S] lse:f32[N,S] | S:u32", groups="N*S", block=128, software_block=8, vector="K")
def logsumexp_rows(x: np.ndarray, S: int) -> tuple[np.ndarray, np.ndarray]:
    """The logarithm of the sum of exponentials of each piece, twice: as the result and as backward needs it."""
    made = []
    for piece in _pieces(x, S):
        top = piece.max(axis=1, initial=np.finfo(x.dtype).min, keepdims=True)
        lse = np.log(np.exp(piece - top).sum(axis=1, keepdims=True)) + top
        made.append(np.where(top == np.inf, top, lse))
    both = np.concatenate(made, axis=1)
    return both, both


def _arg(name: str, sign: str) -> tuple[Kernel, Kernel]:
    """The kernel that finds the best element of each piece and the one that joins pieces."""
    find = np.argmax if sign == ">" else np.argmin

    def rows(x: np.ndarray, S: int) -> tuple[np.ndarray, np.ndarray]:
        starts = [begin for begin, _ in piece_bounds(x.shape[1], S, row_unit(x.shape[1]))]
        at = np.stack([find(p, axis=1) + begin for p, begin in zip(_pieces(x, S), starts, strict=True)], 1)
        return np.take_along_axis(x, at, 1), at

    def merge(x: np.ndarray, at: np.ndarray) -> np.ndarray:
        return np.take_along_axis(at, find(x, axis=1)[:, None], 1)

    kinds, context = {"F": "fi"}, {"sign": sign}
    made = (make_kernel(rows, "x[N,K] -> top:F[N,S] out:i32[N,S] | S:u32", name=f"{name}_rows", groups="N*S", block=128,
                        software_block=8, vector="K", kinds=kinds, source="arg_reduce_rows", context=context),
            make_kernel(merge, "x[N,S] at:i32[N,S] -> out:i32[N]", name=f"{name}_merge", groups="N", block=128,
                        software_block=8, kinds=kinds, source="arg_reduce_merge", context=context))
    KERNELS.update({k.name: k for k in made})
    return made


ARG_MAX = _arg("arg_max", ">")
ARG_MIN = _arg("arg_min", "<")


def to_rows(x: Array, dims: Dims) -> Array:
    """x as [N,K]: the reduced dims moved behind the others, in their order."""
    kept = tuple(a for a in range(x.ndim) if a not in dims)
    count = size_of(x.shape, dims)
    rows = permuted(x, kept + dims) if x.ndim > 1 else x
    return rows.reshape(math.prod(x.shape[a] for a in kept), count)


# ---- ops ------------------------------------------------------------------------------------------------------------

class Var(Op):
    root: ClassVar[int] = 0

    def forward(self, x: Array, dim: Dims = (), keepdim: bool = False, correction: float = 1) -> Array:
        require_floating(self.name, x.dtype)
        self.shape, self.dims = x.shape, all_dims(x.shape, dim)
        rows = to_rows(x, self.dims)
        n, k = rows.shape
        self.scale = 1.0 / (k - correction) if k > correction else float("inf")
        pieces = row_pieces(n, k)
        types = {"A": x.dtype}
        if pieces == 1:
            y, exact, mean = run(var_rows, rows, types=types, scale=self.scale, root=self.root, S=1)
        else:
            _, squares, means = run(var_rows, rows, types=types, scale=1.0, root=0, S=pieces)
            y, exact, mean = run(var_merge, squares, means, types=types, K=k, scale=self.scale, root=self.root)
        self.save(x, mean, *([exact] if self.root else []))
        made: Array = y.reshape(*reduced_shape(x.shape, self.dims, keepdim))
        return made

    def backward(self, dy: Array) -> Gradients:
        slot = self.into[0] if self.into else None
        rule, scale = ("std", self.scale) if self.root else ("var", 2 * self.scale)
        return (spread(rule, self.shape, self.dims, *self.saved, dy, scale=scale, out=slot),)

    @classmethod
    def cases(cls, rng: np.random.Generator) -> Iterator[Case]:
        for case in cases_of_shapes(rng):
            x, options = case.inputs[0], case.options
            if case.name in ("one", "scalar", "size1"):
                options = {**options, "correction": 0}
                yield Case(case.name, (x,), options, differentiable=cls.root == 0)
            else:
                yield case
        yield Case("biased", (rng.standard_normal((4, 9)),), {"dim": (0,), "correction": 0})
        yield Case("far_mean", (rng.standard_normal((3, 260)) + 64,), {"dim": (1,)})

    @classmethod
    def bad_cases(cls) -> Iterator[BadCase]:
        yield BadCase("ints", (np.ones((2, 2), np.int32),), rf"\[{cls.name}\] x must be floating, got int32")


class Std(Var):
    root = 1


class LogSumExp(Op):
    name = "logsumexp"

    def forward(self, x: Array, dim: Dims = (), keepdim: bool = False) -> Array:
        require_floating(self.name, x.dtype)
        self.shape, self.dims = x.shape, all_dims(x.shape, dim)
        rows = to_rows(x, self.dims)
        n, k = rows.shape
        pieces = row_pieces(n, k)
        y, lse = run(logsumexp_rows, rows, types={"A": x.dtype}, S=pieces)
        if pieces > 1:
            y, lse = run(logsumexp_rows, lse, types={"A": x.dtype}, S=1)
        self.save(x, lse)
        made: Array = y.reshape(*reduced_shape(x.shape, self.dims, keepdim))
        return made

    def backward(self, dy: Array) -> Gradients:
        slot = self.into[0] if self.into else None
        return (spread("logsumexp", self.shape, self.dims, *self.saved, dy, out=slot),)

    @classmethod
    def cases(cls, rng: np.random.Generator) -> Iterator[Case]:
        yield from cases_of_shapes(rng)
        yield Case("large", (rng.standard_normal((3, 70)) * 30 + 200,), {"dim": (1,)})

    @classmethod
    def bad_cases(cls) -> Iterator[BadCase]:
        yield BadCase("ints", (np.ones((2, 2), np.int32),), r"\[logsumexp\] x must be floating, got int32")


class ArgMax(Op):
    """The index, as int32, of the first of the largest elements; over all dims it counts in the flattened tensor."""

    name = "argmax"
    kernels: ClassVar[tuple[Kernel, Kernel]] = ARG_MAX

    def forward(self, x: Array, dim: Dims = (), keepdim: bool = False) -> Array:
        dims = all_dims(x.shape, dim)
        require_elements(self.name, x.shape, dims)
        if x.dtype.kind == "b":
            raise DTypeError(f"[{self.name}] x must be floating or integer, got bool. Cast it with .to(int32).")
        rows = to_rows(x, dims)
        pieces = row_pieces(*rows.shape)
        find, merge = self.kernels
        top, at = run(find, rows, S=pieces)
        if pieces > 1:
            at = run(merge, top, at)
        made: Array = at.reshape(*reduced_shape(x.shape, dims, keepdim))
        return made

    @classmethod
    def cases(cls, rng: np.random.Generator) -> Iterator[Case]:
        for case in cases_of_shapes(rng):
            x, dim = np.asarray(case.inputs[0]), case.options["dim"]
            if len(dim) < 2:
                distinct = np.asarray(rng.integers(-99, 99, x.shape) / 4.0)
                yield Case(case.name, (distinct,), case.options, differentiable=False)
        ints = rng.integers(-3, 3, (5, 70), dtype=np.int32)
        yield Case("ints", (ints,), {"dim": (1,)}, ("float32",), False)
        yield Case("int_columns", (ints,), {"dim": (0,), "keepdim": True}, ("float32",), False)

    @classmethod
    def bad_cases(cls) -> Iterator[BadCase]:
        yield BadCase("empty", (np.ones((2, 0)),), r"dim 1 must have elements, got shape \(2, 0\)", {"dim": (1,)})
        yield BadCase("bool", (np.ones(3, np.bool_),), "must be floating or integer, got bool")


class ArgMin(ArgMax):
    name = "argmin"
    kernels = ARG_MIN
