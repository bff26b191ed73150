"""Ops that move elements without computing: reshape, permute, expand, slice, split, cat, repeat, flip, tril, triu.

All are copies by the kernels of strided.py, except reshape, which is free, and the triangles, which have their own.
Gradients move the other way: what was read once is written back, what was read often (expand, repeat) is summed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from ..array import Array, Shape, empty, run
from ..errors import ShapeError
from ..kernel import kernel
from .base import BadCase, Case, Op
from .cast import Cast
from .create import fill
from .index_select import IndexSelect
from .reduce import sum_to
from .strided import expanded, permuted, placed, sliced, write_slice

__all__ = ["Cast", "Cat", "Expand", "Flip", "IndexSelect", "Permute", "Repeat", "Reshape", "Slice", "Split", "Tril",
           "Triu", "expanded", "permuted"]


def _case(rng: np.random.Generator, size: Shape, /, **options: Any) -> Case:
    label = "x".join(map(str, size)) or "scalar"
    values = "-".join(str(v).replace(" ", "") for v in options.values())
    return Case(f"{label}-{values}", (rng.standard_normal(size),), options)


class Reshape(Op):
    """The same memory under another shape."""

    def forward(self, x: Array, shape: Shape) -> Array:
        self.shape = x.shape
        return x.reshape(*shape)

    def backward(self, gradient: Array) -> tuple[Array]:
        return (gradient.reshape(*self.shape),)

    @classmethod
    def cases(cls, rng: np.random.Generator) -> Iterator[Case]:
        for shape, to in [((3, 4), (2, 6)), ((1, 1), ()), ((0, 4), (2, 0))]:
            yield _case(rng, shape, shape=to)

    @classmethod
    def bad_cases(cls) -> Iterator[BadCase]:
        yield BadCase("size", (np.zeros((3, 4)),), r"\[reshape\] shape must hold 12 elements", {"shape": (5, 2)})


class Permute(Op):
    """out[i[axes[0]], i[axes[1]], ...] = x[i]."""

    def forward(self, x: Array, axes: Sequence[int]) -> Array:
        self.axes = tuple(axes)
        return permuted(x, axes)

    def backward(self, gradient: Array) -> tuple[Array]:
        rank = len(self.axes)
        return (permuted(gradient, sorted(range(rank), key=lambda d: self.axes[d] % rank)),)

    @classmethod
    def cases(cls, rng: np.random.Generator) -> Iterator[Case]:
        for shape, axes in [((3, 5), (1, 0)), ((64, 36), (1, 0)), ((33, 70), (1, 0)), ((2, 8, 3, 4), (0, 2, 1, 3)),
                            ((2, 12, 3, 16), (0, 2, 3, 1)), ((9, 2, 10), (2, 1, 0)), ((5, 3, 4), (1, -1, 0)),
                            ((2, 3, 2, 3, 2, 3), (5, 3, 4, 1, 2, 0)), ((0, 3), (1, 0)), ((1,), (0,)), ((), ()),
                            ((300, 5), (1, 0))]:
            yield _case(rng, shape, axes=axes)
        yield Case("int32", (np.arange(40, dtype=np.int32).reshape(5, 8),), {"axes": (1, 0)}, dtypes=("float32",),
                   differentiable=False)
        yield Case("bool", (np.arange(40).reshape(5, 8) % 3 == 0,), {"axes": (1, 0)}, dtypes=("float32",),
                   differentiable=False)

    @classmethod
    def bad_cases(cls) -> Iterator[BadCase]:
        yield BadCase("twice", (np.zeros((3, 4)),), r"\[permute\] dims must hold each", {"axes": (0, 0)})
        yield BadCase("rank", (np.zeros((3, 4)),), r"\[permute\] dims must hold each", {"axes": (0,)})


class Expand(Op):
    """x broadcast to shape."""

    def forward(self, x: Array, shape: Shape) -> Array:
        self.shape = x.shape
        return expanded(x, shape)

    def backward(self, gradient: Array) -> tuple[Array]:
        return (sum_to(gradient, self.shape),)

    @classmethod
    def cases(cls, rng: np.random.Generator) -> Iterator[Case]:
        for shape, to in [((3, 1), (3, 4)), ((7,), (5, 7)), ((8,), (5, 8)), ((), (2, 3)), ((2, 1, 3, 1), (2, 5, 3, 4)),
                          ((3,), (3,)), ((1,), (0,)), ((1, 300), (3, 300)), ((5, 1), (5, 33))]:
            yield _case(rng, shape, shape=to)

    @classmethod
    def bad_cases(cls) -> Iterator[BadCase]:
        yield BadCase("size", (np.zeros((3, 2)),), r"\[expand\] shape \(3, 2\) must broadcast", {"shape": (3, 4)})
        yield BadCase("rank", (np.zeros((3, 2)),), r"\[expand\] shape \(3, 2\) must broadcast", {"shape": (2,)})


class Slice(Op):
    """sizes[d] elements of each dimension, from starts[d] on in steps of steps[d], which may be negative."""

    def forward(self, x: Array, starts: Sequence[int], sizes: Sequence[int], steps: Sequence[int]) -> Array:
        if not len(starts) == len(sizes) == len(steps) == x.ndim:
            raise ShapeError(f"[slice] starts, sizes and steps must have {x.ndim} entries, got {len(starts)}, "
                             f"{len(sizes)} and {len(steps)}.")
        for d, (whole, b, n, t) in enumerate(zip(x.shape, starts, sizes, steps, strict=True)):
            if n and not (t and 0 <= b < whole and 0 <= b + (n - 1) * t < whole):
                raise ShapeError(f"[slice] dimension {d} of size {whole} must hold {n} elements from {b} on in steps "
                                 f"of {t}, but does not.")
        self.shape, self.starts, self.steps = x.shape, tuple(starts), tuple(steps)
        return sliced(x, starts, sizes, steps)

    def backward(self, gradient: Array) -> tuple[Array]:
        if not gradient.size:
            return (fill(self.shape, 0, gradient.dtype, gradient.backend),)
        return (placed(gradient, self.shape, self.starts, self.steps),)

    @classmethod
    def cases(cls, rng: np.random.Generator) -> Iterator[Case]:
        for shape, starts, sizes, steps in [
                ((7,), (2,), (3,), (1,)), ((9,), (8,), (5,), (-2,)), ((5, 6), (1, 4), (2, 2), (3, -3)),
                ((4, 16), (0, 4), (4, 8), (1, 1)), ((3, 8, 5), (0, 2, 0), (3, 4, 5), (1, 1, 1)),
                ((6, 3, 8), (5, 0, 0), (3, 3, 8), (-2, 1, 1)), ((4, 4), (1, 3), (0, 1), (1, 1)),
                ((1,), (0,), (1,), (1,)), ((40, 33), (1, 2), (39, 30), (1, 1)),
                ((3, 4, 5, 2), (1, 0, 1, 0), (1, 2, 2, 2), (1, 2, 3, 1))]:
            yield _case(rng, shape, starts=starts, sizes=sizes, steps=steps)

    @classmethod
    def bad_cases(cls) -> Iterator[BadCase]:
        x = np.zeros((4, 5))
        yield BadCase("rank", (x,), r"\[slice\] starts, sizes and steps must have 2 entries",
                      {"starts": (0,), "sizes": (1,), "steps": (1,)})
        yield BadCase("end", (x,), r"\[slice\] dimension 1 of size 5 must hold 3 elements from 1 on in steps of 2",
                      {"starts": (0, 1), "sizes": (4, 3), "steps": (1, 2)})


def _joined(arrays: Sequence[Array], shape: Shape, dim: int) -> Array:
    """The arrays one after another along dim."""
    out = empty(shape, arrays[0].dtype, arrays[0].backend)
    start, steps = 0, [1] * len(shape)
    for array in arrays:
        write_slice(out, array, [start if d == dim else 0 for d in range(len(shape))], steps)
        start += array.shape[dim]
    out.buffer.version = 0
    return out


def _part(x: Array, dim: int, start: int, size: int) -> Array:
    starts = [start if d == dim else 0 for d in range(x.ndim)]
    return sliced(x, starts, [size if d == dim else n for d, n in enumerate(x.shape)], [1] * x.ndim)


class Cat(Op):
    """The arrays one after another along dim."""

    def forward(self, *arrays: Array, dim: int) -> Array:
        first = arrays[0]
        if not -first.ndim <= dim < first.ndim:
            raise ShapeError(f"[cat] dim must be in [{-first.ndim}, {first.ndim - 1}], got {dim}.")
        self.dim = dim % first.ndim
        rest = [a.shape[:self.dim] + a.shape[self.dim + 1:] for a in arrays]
        if any(r != rest[0] or a.ndim != first.ndim for r, a in zip(rest, arrays, strict=True)):
            raise ShapeError(f"[cat] all sizes but that of dim {self.dim} must agree, got "
                             f"{' and '.join(str(a.shape) for a in arrays)}.")
        self.sizes = [a.shape[self.dim] for a in arrays]
        shape = (*first.shape[:self.dim], sum(self.sizes), *first.shape[self.dim + 1:])
        return _joined(arrays, shape, self.dim)

    def backward(self, gradient: Array) -> list[Array | None]:
        starts = np.cumsum([0, *self.sizes]).tolist()
        return [_part(gradient, self.dim, start, size) if need else None
                for start, size, need in zip(starts, self.sizes, self.needs, strict=False)]

    @classmethod
    def cases(cls, rng: np.random.Generator) -> Iterator[Case]:
        for shapes, dim in [(((2, 3), (4, 3)), 0), (((2, 3), (2, 5), (2, 1)), 1), (((3, 4, 8), (3, 2, 8)), -2),
                            (((5, 4), (5, 8)), -1), (((7,),), 0), (((0, 3), (2, 3)), 0), (((1,), (1025,)), 0),
                            (((2, 2),) * 9, 1)]:
            yield Case(f"{len(shapes)}-{'x'.join(map(str, shapes[-1]))}-{dim}",
                       tuple(rng.standard_normal(s) for s in shapes), {"dim": dim})

    @classmethod
    def bad_cases(cls) -> Iterator[BadCase]:
        yield BadCase("sizes", (np.zeros((2, 3)), np.zeros((2, 4))), r"\[cat\] all sizes but that of dim 0", {"dim": 0})
        yield BadCase("rank", (np.zeros((2, 3)), np.zeros(3)), r"\[cat\] all sizes but", {"dim": 0})
        yield BadCase("dim", (np.zeros((2, 3)), np.zeros((2, 3))), r"\[cat\] dim must be in \[-2, 1\]", {"dim": 2})


class Split(Op):
    """Pieces of the given sizes along dim; the opposite of Cat."""

    def forward(self, x: Array, sizes: Sequence[int], dim: int) -> tuple[Array, ...]:
        self.dim, self.shape = dim % x.ndim, x.shape
        if sum(sizes) != x.shape[self.dim] or min(sizes) < 0:
            raise ShapeError(f"[split] sizes must add up to {x.shape[self.dim]}, got {tuple(sizes)}.")
        starts = np.cumsum([0, *sizes]).tolist()
        self.sizes = list(sizes)
        return tuple(_part(x, self.dim, start, size) for start, size in zip(starts, sizes, strict=False))

    def backward(self, *gradients: Array | None) -> tuple[Array]:
        like = next(g for g in gradients if g is not None)
        shapes = [tuple(n if d == self.dim else s for d, s in enumerate(self.shape)) for n in self.sizes]
        found = [fill(s, 0, like.dtype, like.backend) if g is None else g
                 for g, s in zip(gradients, shapes, strict=True)]
        return (_joined(found, self.shape, self.dim),)

    @classmethod
    def cases(cls, rng: np.random.Generator) -> Iterator[Case]:
        for shape, sizes, dim in [((6, 4), (2, 3, 1), 0), ((2, 24), (8, 8, 8), -1), ((3, 7), (3, 4), 1),
                                  ((5,), (5,), 0), ((4, 3), (0, 4), 0)]:
            yield _case(rng, shape, sizes=sizes, dim=dim)

    @classmethod
    def bad_cases(cls) -> Iterator[BadCase]:
        yield BadCase("sum", (np.zeros((4, 3)),), r"\[split\] sizes must add up to 4", {"sizes": (2, 3), "dim": 0})


class Repeat(Op):
    """x sizes[d] times along each dimension, as numpy.tile; sizes may have more dimensions than x."""

    def forward(self, x: Array, sizes: Sequence[int]) -> Array:
        if len(sizes) < x.ndim or min(sizes, default=0) < 0:
            raise ShapeError(f"[repeat] sizes must be at least 0, one for each of the {x.ndim} dimensions, got "
                             f"{tuple(sizes)}.")
        padded = (1,) * (len(sizes) - x.ndim) + x.shape
        self.shape = x.shape
        self.apart = tuple(n for pair in zip(sizes, padded, strict=True) for n in pair)  # times, size, times, size ..
        if sum(r != 1 for r in sizes) > 2:  # one copy would need more dimensions than a kernel walks
            for d, times in enumerate(sizes):
                x = self._along(x.reshape(*padded), d, times)
                padded = x.shape
            return x
        once = x.reshape(*[n for size in padded for n in (1, size)])
        return expanded(once, self.apart).reshape(*[r * n for r, n in zip(sizes, padded, strict=True)])

    @staticmethod
    def _along(x: Array, dim: int, times: int) -> Array:
        """x repeated along one dimension."""
        before, after = math.prod(x.shape[:dim]), math.prod(x.shape[dim:])
        repeated = x if times == 1 else expanded(x.reshape(before, 1, after), (before, times, after))
        return repeated.reshape(*x.shape[:dim], times * x.shape[dim], *x.shape[dim + 1:])

    def backward(self, gradient: Array) -> tuple[Array]:
        once = tuple(1 if d % 2 == 0 else n for d, n in enumerate(self.apart))
        return (sum_to(gradient.reshape(*self.apart), once).reshape(*self.shape),)

    @classmethod
    def cases(cls, rng: np.random.Generator) -> Iterator[Case]:
        for shape, sizes in [((3,), (2,)), ((2, 3), (3, 2)), ((4,), (2, 1, 3)), ((2, 8), (1, 5)), ((), (3,)),
                             ((3,), (0,)), ((1,), (300,)), ((2, 1, 3, 2), (2, 3, 2, 2))]:
            yield _case(rng, shape, sizes=sizes)

    @classmethod
    def bad_cases(cls) -> Iterator[BadCase]:
        yield BadCase("rank", (np.zeros((2, 3)),), r"\[repeat\] sizes must be at least 0, one for", {"sizes": (2,)})


class Flip(Op):
    """The order of elements along dims turned around."""

    def forward(self, x: Array, dims: Sequence[int]) -> Array:
        if any(not -x.ndim <= d < x.ndim for d in dims):
            raise ShapeError(f"[flip] dims must be in [{-x.ndim}, {x.ndim - 1}], got {tuple(dims)}.")
        self.dims = {d % x.ndim for d in dims}
        return self._flipped(x)

    def _flipped(self, x: Array) -> Array:
        starts = [max(n - 1, 0) if d in self.dims else 0 for d, n in enumerate(x.shape)]
        return sliced(x, starts, x.shape, [-1 if d in self.dims else 1 for d in range(x.ndim)])

    def backward(self, gradient: Array) -> tuple[Array]:
        return (self._flipped(gradient),)

    @classmethod
    def cases(cls, rng: np.random.Generator) -> Iterator[Case]:
        for shape, dims in [((7,), (0,)), ((3, 8), (0,)), ((3, 8), (1,)), ((2, 3, 4), (0, 2)), ((0, 3), (0,)),
                            ((1,), (0,))]:
            yield _case(rng, shape, dims=dims)

    @classmethod
    def bad_cases(cls) -> Iterator[BadCase]:
        yield BadCase("dim", (np.zeros((2, 3)),), r"\[flip\] dims must be in \[-2, 1\]", {"dims": (2,)})


@kernel("x[R,M,N] -> out[R,M,N] | diagonal:i32 upper:u32", groups="cdiv(R*M*N, BLOCK*W)", software_block=64,
        static="M N upper", vector="N", kinds={"F": "fib"})
def triangle_forward(x: np.ndarray, diagonal: int, upper: int) -> np.ndarray:
    """Keeps columns up to row + diagonal, or from there on where upper is 1."""
    _, m, n = x.shape
    distance = np.arange(n) - np.arange(m)[:, None]
    return np.where(distance >= diagonal if upper else distance <= diagonal, x, np.zeros((), x.dtype))


class _Triangle(Op):
    upper = 0

    def forward(self, x: Array, diagonal: int = 0) -> Array:
        if x.ndim < 2:
            raise ShapeError(f"[{self.name}] input must have at least 2 dimensions, got shape {x.shape}.")
        self.diagonal = diagonal
        return self._kept(x)

    def _kept(self, x: Array) -> Array:
        m, n = x.shape[-2:]
        out: Array = run(triangle_forward, x.reshape(x.size // (m * n) if m * n else 0, m, n), diagonal=self.diagonal,
                         upper=self.upper)
        return out.reshape(*x.shape)

    def backward(self, gradient: Array) -> tuple[Array]:
        return (self._kept(gradient),)

    @classmethod
    def cases(cls, rng: np.random.Generator) -> Iterator[Case]:
        for shape, diagonal in [((4, 4), 0), ((5, 8), 1), ((2, 3, 7), -1), ((8, 5), 2), ((1, 1), 0), ((0, 3), 0),
                                ((33, 40), -20)]:
            yield _case(rng, shape, diagonal=diagonal)

    @classmethod
    def bad_cases(cls) -> Iterator[BadCase]:
        yield BadCase("rank", (np.zeros(3),), r"input must have at least 2 dimensions")


class Tril(_Triangle):
    """Zero above the diagonal that lies `diagonal` columns to the right of the main one."""

    name = "tril"


class Triu(_Triangle):
    """Zero below the diagonal that lies `diagonal` columns to the right of the main one."""

    name = "triu"
    upper = 1
