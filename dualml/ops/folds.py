"""Folds, which reduce any dimensions by an operator: the kernels, and the functions by which ops use them.

Every reduction is one over K of x[N,K,I], where neighbouring reduced dimensions are merged and those of size 1 are left
out; dimensions that are not neighbours are reduced one group after the other, the last group first. I = 1 is done by
rows (a workgroup per row), all else by columns. So that a long reduction uses the whole device, its K is cut into S
pieces whose results a second launch joins. S depends on the shape alone: results are the same on every run.

Max and min of what holds a NaN are NaN, as in PyTorch; WGSL's own functions may lose it, so its bits are looked at.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from ..array import Array, Shape, run
from ..dtypes import DType, float32, float64
from ..errors import DTypeError, ShapeError
from ..kernel import KERNELS, Kernel, make_kernel
from .base import Case

ROW = 64            # K from which a row is worth a workgroup
PIECE = 4096        # least elements of a row in a piece
Dims = tuple[int, ...]
_GROUPS = 1024      # workgroups that fill a large GPU
_ROW_BLOCK = 128
_COLUMN_BLOCK = 256

# ---- kernels --------------------------------------------------------------------------------------------------------


def piece_bounds(length: int, pieces: int, unit: int = 1) -> list[tuple[int, int]]:
    """Begin and end of each piece, as the kernels cut a length: in groups of `unit`, the first pieces one longer."""
    least, more = divmod(length // unit, pieces)
    starts = [(s * least + min(s, more)) * unit for s in range(pieces)] + [length]
    return list(pairwise(starts))


def row_unit(length: int) -> int:
    """What a row is cut in: WGSL reads four elements at a time where it can."""
    return 1 if length % 4 else 4


def _in_pieces(ufunc: np.ufunc, x: np.ndarray, pieces: int, unit: int) -> np.ndarray:
    """ufunc.reduce over axis 1 in pieces: [N,K,...] -> [N,S,...]."""
    if pieces == 1:
        return np.asarray(ufunc.reduce(x, axis=1, keepdims=True))
    n, k = x.shape[:2]
    if k % (pieces * unit) == 0:
        return np.asarray(ufunc.reduce(x.reshape(n, pieces, k // pieces, *x.shape[2:]), axis=2))
    bounds = piece_bounds(k, pieces, unit)
    if x.ndim == 2:
        return np.asarray(ufunc.reduceat(x, [begin for begin, _ in bounds], axis=1))
    return np.stack([ufunc.reduce(x[:, begin:end], axis=1) for begin, end in bounds], 1)


@dataclass(frozen=True)
class Fold:
    """A reduction: `op` joins two values, `value` makes one of an element. `then` joins the results of pieces."""

    name: str
    op: str
    value: str
    then: str
    rows: Kernel
    columns: Kernel


_UFUNCS = {("sum", "plain"): np.add, ("prod", "plain"): np.multiply, ("max", "plain"): np.maximum,
           ("min", "plain"): np.minimum, ("max", "truth"): np.logical_or, ("min", "truth"): np.logical_and,
           ("sum", "tie"): np.add, ("sum", "zero"): np.add, ("prod", "nonzero"): np.multiply}
_VALUES: dict[str, Callable[..., np.ndarray]] = {
    "plain": lambda x: x, "truth": lambda x: x, "tie": lambda x, y: x == y[:, None], "zero": lambda x: x == 0,
    "nonzero": lambda x: np.where(x == 0, x.dtype.type(1), x)}


def _reference(op: str, value: str, rows: bool) -> Callable[..., np.ndarray]:
    ufunc, prepare = _UFUNCS[op, value], _VALUES[value]

    def reference(x: np.ndarray, *centre: np.ndarray, S: int, scale: float = 1.0, L: int = 0) -> np.ndarray:
        made = _in_pieces(ufunc, prepare(x, *centre), S, row_unit(x.shape[1]) if rows else 1)
        return made * scale if scale != 1.0 and made.dtype.kind not in "iub" else made
    return reference


def _fold(name: str, op: str, value: str = "plain", then: str = "") -> Fold:
    """Both kernels of a reduction. A `tie` compares each element with y, one value per result."""
    scalars = "scale S:u32" if value == "plain" and op == "sum" else "S:u32"
    y, ys = ("y[N]", "y[N,I]") if value == "tie" else ("", "")
    kinds = {"F": "fib"}
    rows = make_kernel(
        _reference(op, value, True), f"x[N,K] {y} -> out:A[N,S] | {scalars}", name=f"{name}_rows", groups="N*S",
        block=_ROW_BLOCK, software_block=8, vector="K", kinds=kinds, source="reduce_rows",
        context={"op": op, "value": value})
    columns = make_kernel(
        _reference(op, value, False), f"x[N,K,I] {ys} -> out:A[N,S,I] | {scalars} L:u32", name=f"{name}_columns",
        groups="cdiv(N*I, min(L,BLOCK)*W)*S", block=_COLUMN_BLOCK, software_block=8, vector="I", kinds=kinds,
        source="reduce_columns", context={"op": op, "value": value})
    KERNELS[rows.name], KERNELS[columns.name] = rows, columns
    return Fold(name, op, value, then or name, rows, columns)


FOLDS = {f.name: f for f in (
    _fold("sum", "sum"), _fold("prod", "prod"), _fold("max", "max"), _fold("min", "min"),
    _fold("any", "max", "truth"), _fold("all", "min", "truth"),
    _fold("ties", "sum", "tie", "sum"), _fold("zeros", "sum", "zero", "sum"),
    _fold("nonzero_prod", "prod", "nonzero", "prod"))}


# ---- shapes ---------------------------------------------------------------------------------------------------------

def merged(shape: Shape, dims: Sequence[int]) -> list[tuple[bool, int]]:
    """(reduced, size) of runs of neighbours that are all reduced or all kept; at least one run is reduced."""
    runs: list[tuple[bool, int]] = []
    for axis, size in enumerate(shape):
        if size == 1:
            continue
        reduced = axis in dims
        if runs and runs[-1][0] == reduced:
            runs[-1] = reduced, runs[-1][1] * size
        else:
            runs.append((reduced, size))
    return runs if any(reduced for reduced, _ in runs) else [*runs, (True, 1)]


def last_reduced(runs: list[tuple[bool, int]]) -> tuple[int, tuple[int, int, int]]:
    """Position of the last reduced run, and N, K and I around it."""
    at = max(j for j, (reduced, _) in enumerate(runs) if reduced)
    sizes = [size for _, size in runs]
    return at, (math.prod(sizes[:at]), sizes[at], math.prod(sizes[at + 1:]))


def all_dims(shape: Shape, dim: Sequence[int]) -> tuple[int, ...]:
    """The dims an op reduces: () stands for all of them."""
    return tuple(dim) or tuple(range(len(shape)))


def reduced_shape(shape: Shape, dims: Sequence[int], keepdim: bool) -> Shape:
    """Shape of the result of a reduction."""
    if keepdim:
        return tuple(1 if axis in dims else size for axis, size in enumerate(shape))
    return tuple(size for axis, size in enumerate(shape) if axis not in dims)


def size_of(shape: Shape, dims: Sequence[int]) -> int:
    """How many elements are reduced to one."""
    return math.prod(shape[a] for a in dims)


def row_pieces(n: int, k: int) -> int:
    """How many pieces (S) each of n rows of k elements is cut into."""
    return max(1, min(-(-_GROUPS // max(n, 1)), k // PIECE))


def column_lanes(n: int, k: int, i: int) -> tuple[int, int]:
    """Columns that stand side by side in a workgroup (L), and workgroups these make. The fewer columns or the longer
    they are, the more invocations share one."""
    columns = n * i // (1 if i % 4 else 4)
    sharing = min(8, 1 << max(k // 4, 1).bit_length() - 1)
    lanes = min(_COLUMN_BLOCK // sharing, 1 << max(columns - 1, 0).bit_length())
    return lanes, -(-columns // lanes)


def column_pieces(n: int, k: int, i: int) -> tuple[int, int]:
    """L, and how many pieces (S) each column is cut into."""
    lanes, groups = column_lanes(n, k, i)
    return lanes, max(1, min(_GROUPS // max(groups, 1), k * lanes // (8 * _COLUMN_BLOCK), 128))


# ---- reductions of Arrays -------------------------------------------------------------------------------------------

def accumulator(dtype: DType) -> DType:
    """What partial results of a dtype are kept in."""
    return float32 if dtype.kind == "f" and dtype is not float64 else dtype


def _reduce(fold: Fold, x: Array, dtype: DType, scale: float, out: Array | None, *centre: Array) -> Array:
    """x[N,K,I] -> [N,I], in one launch or two."""
    n, k, i = x.shape
    rows = i == 1 and k >= ROW
    lanes, pieces = (0, row_pieces(n, k)) if rows else column_pieces(n, k, i)
    final = pieces == 1
    scalars: dict[str, Any] = {"S": pieces} if rows else {"S": pieces, "L": lanes}
    if "scale" in dict(fold.rows.scalars):
        scalars["scale"] = scale if final else 1.0
    whole, one = ((n, k), (n,)) if rows else ((n, k, i), (n, i))
    inputs = [x.reshape(*whole), *[c.reshape(*one) for c in centre]]
    made: Array = run(fold.rows if rows else fold.columns, *inputs, out=(out,) if final else (),
                      types={"A": dtype if final else accumulator(dtype)}, **scalars)
    if final:
        return made
    return _reduce(FOLDS[fold.then], made.reshape(n, pieces, i), dtype, scale, out)


def reduced(fold: str, x: Array, dims: Sequence[int], dtype: DType, scale: float = 1.0,
            out: Array | None = None, centre: tuple[Array, ...] = ()) -> Array:
    """A named fold over dims, those not kept.

    Args:
        dtype: of the result.
        scale: what a sum is multiplied by.
        out: written into, if given.
        centre: what `ties` compares with: one value for each of N * I around the last run of reduced dims.
    """
    shape, runs, then = reduced_shape(x.shape, dims, False), merged(x.shape, dims), FOLDS[fold]
    while any(reduced for reduced, _ in runs):
        at, sizes = last_reduced(runs)
        del runs[at]
        final = not any(reduced for reduced, _ in runs)
        x = _reduce(then, x.reshape(*sizes), dtype if final else accumulator(dtype), scale if final else 1.0,
                    out if final else None, *centre)
        then, centre = FOLDS[then.then], ()
    return out if out is not None else x.reshape(*shape)


def sum_columns(x: Array, out: Array | None = None) -> Array:
    """The sum over the rows of x [N,C]: the gradient of a bias. `out` may have another floating dtype than x."""
    return reduced("sum", x, (0,), out.dtype if out is not None else x.dtype, out=out)


def total(x: Array) -> Array:
    """The sum of all elements, of shape ()."""
    return reduced("sum", x, range(x.ndim), x.dtype)


def sum_to(x: Array, shape: Shape) -> Array:
    """The gradient of a broadcast from `shape` to x.shape: the sum over what was repeated; else x itself."""
    if x.shape == tuple(shape):
        return x
    new = x.ndim - len(shape)
    dims = tuple(a for a, size in enumerate(x.shape) if a < new or (shape[a - new] == 1 and size != 1))
    if math.prod(x.shape) == math.prod(shape):
        return x.reshape(*shape)
    return reduced("sum", x, dims, x.dtype).reshape(*shape)


# ---- what the ops share ---------------------------------------------------------------------------------------------

def require_elements(op: str, shape: Shape, dims: Dims) -> None:
    """Refuses a reduction of nothing where nothing has no value."""
    empty = [a for a in dims if shape[a] == 0]
    if empty:
        raise ShapeError(f"[{op}] dim {empty[0]} must have elements, got shape {shape}. Leave empty tensors out first.")


def require_floating(op: str, dtype: DType) -> None:
    """Refuses integers and bools."""
    if dtype.kind != "f":
        raise DTypeError(f"[{op}] x must be floating, got {dtype.name}. Cast it with .to(float32).")


def cases_of_shapes(rng: np.random.Generator, **options: Any) -> Iterator[Case]:
    """Shapes and dims that every reduction is tested with: rows, columns, pieces, groups, all, sizes 1 and odd."""
    for name, shape, dim, keepdim in (
            ("all", (3, 5), (), False), ("row", (7,), (0,), True), ("one", (1,), (0,), False),
            ("scalar", (), (), False), ("rows", (5, 67), (1,), False), ("rows4", (3, 132), (1,), True),
            ("columns", (70, 6), (0,), False), ("columns4", (33, 12), (0,), True), ("middle", (2, 9, 3), (1,), False),
            ("two_groups", (3, 4, 5), (0, 2), True), ("three_groups", (2, 3, 4, 1, 3), (0, 2, 4), False),
            ("pairs", (2, 3, 4, 5), (1, 2), False), ("size1", (2, 1, 3), (1,), False)):
        yield Case(name, (np.asarray(rng.standard_normal(shape)),), {"dim": dim, "keepdim": keepdim, **options})
    yield Case("pieces", (rng.standard_normal((2, 8200)),), {"dim": (1,), **options}, differentiable=False)
    yield Case("pieces_odd", (rng.standard_normal(12305),), {"dim": (0,), **options}, differentiable=False)
    yield Case("column_pieces", (rng.standard_normal((517, 36)),), {"dim": (0,), **options}, differentiable=False)
