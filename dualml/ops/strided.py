"""Copies that only move elements: what permute, expand, slice, cat and their gradients are made of.

Arrays are always contiguous, so a change of layout is a copy: out[i0,i1,...] = x[start + i0*s0 + i1*s1 + ...], where a
stride s is 0 along an expanded dimension and negative along a flipped one. Dimensions that lie one after the other in
memory are merged first, then the kernel is chosen: groups of four where both sides run along memory, 4x4 blocks or
tiles where they run across each other, single elements otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..array import Array, Shape, empty, run
from ..errors import ShapeError
from ..kernel import Kernel, kernel

RANK = 6   # dimensions of the strided kernels, after merging
TILE = 32  # edge of the tile that strided_transpose moves per workgroup
_ANY = {"F": "fib"}
_SIZES = "n0:u32 n1:u32 n2:u32 n3:u32 n4:u32 n5:u32"
_STRIDES = "s0:i32 s1:i32 s2:i32 s3:i32 s4:i32 s5:i32"
_INNER = "n1 n2 n3 n4 n5"  # constants in the sources: the divisions by them are cheap, and n0 divides nothing


def _view(x: np.ndarray, shape: Sequence[int], strides: Sequence[int], start: int = 0) -> np.ndarray:
    """A NumPy view of contiguous x; strides and start count elements."""
    return np.ndarray(tuple(shape), x.dtype, x, start * x.itemsize, tuple(s * x.itemsize for s in strides))


def _grouped(width: int, start: int, scalars: dict[str, int]) -> tuple[list[int], list[int], int]:
    """Sizes, strides and start in elements, of a kernel that counts groups of `width`."""
    sizes = [scalars[f"n{i}"] for i in range(RANK)]
    strides = [scalars[f"s{i}"] * width for i in range(RANK)]
    return [*sizes, width], [*strides, 1], start * width


@kernel(f"x[L,V] -> out[n0,n1,n2,n3,n4,n5,V] | start:u32 {_SIZES} {_STRIDES}", groups="cdiv(n0*n1*n2*n3*n4*n5, 256)",
        software_block=64, static=_INNER, vector="V", kinds=_ANY)
def strided_copy(x: np.ndarray, start: int, **scalars: int) -> np.ndarray:
    """Elements are groups of V neighbours; start and strides count such groups."""
    return np.ascontiguousarray(_view(x, *_grouped(x.shape[1], start, scalars)))


@kernel(f"x[L] -> out[n0,n1,n2,n3,n4,n5] | start:u32 {_SIZES} {_STRIDES}", groups="cdiv(n0*n1*n2*n3*n4*n5, 256*W)",
        software_block=64, static=f"{_INNER} s5", vector="n5", kinds=_ANY)
def strided_gather(x: np.ndarray, start: int, **scalars: int) -> np.ndarray:
    """Any strides; single elements are read, four at a time are written where n5 divides by 4."""
    sizes, strides, _ = _grouped(1, 0, scalars)
    return np.ascontiguousarray(_view(x, sizes[:RANK], strides[:RANK], start))


@kernel("x[L,V] -> out[n0*n1*n2*N*M//V,V] | start:u32 n0:u32 n1:u32 n2:u32 N:u32 M:u32 s0:i32 s1:i32 s2:i32 sm:i32 "
        "o0:u32 o1:u32 o2:u32 on:u32", groups=f"n0*n1*n2*cdiv(N,{TILE})*cdiv(M,{TILE})", software_block=64,
        static="n1 n2 N M", vector="V", kinds=_ANY)
def strided_transpose(x: np.ndarray, start: int, n0: int, n1: int, n2: int, N: int, M: int, s0: int, s1: int, s2: int,
                      sm: int, o0: int, o1: int, o2: int, on: int) -> np.ndarray:
    """x runs along N, out along M: out[.. + n*on + m] = x[.. + n + m*sm]. Strides count elements; V=4 says that all of
    them divide by 4, which only a CPU driver's 4x4 blocks use."""
    out = np.empty(n0 * n1 * n2 * N * M, x.dtype)
    shape = (n0, n1, n2, N, M)
    _view(out, shape, (o0, o1, o2, on, 1))[...] = _view(x, shape, (s0, s1, s2, 1, sm), start)
    return out


@kernel(f"x[K,V] &out[L,V] | start:u32 {_SIZES} {_STRIDES}", groups="cdiv(K, 256)", software_block=64, static=_INNER,
        vector="V", kinds=_ANY)
def strided_write(x: np.ndarray, out: np.ndarray, start: int, **scalars: int) -> np.ndarray:
    """The opposite of strided_copy, in place: out[start + i0*s0 + ...] = x[i0, ...]; the rest of out stays."""
    sizes, strides, first = _grouped(x.shape[1], start, scalars)
    _view(out, sizes, strides, first)[...] = x.reshape(sizes)
    return out


_BEGINS, _COUNTS, _STEPS = (" ".join(f"{letter}{i}:u32" for i in range(RANK)) for letter in "bmt")


@kernel(f"x[L,V] -> out[n0,n1,n2,n3,n4,n5,V] | start:i32 {_SIZES} {_STRIDES} {_BEGINS} {_COUNTS} {_STEPS}",
        groups="cdiv(n0*n1*n2*n3*n4*n5, 256)", software_block=64, static=f"{_INNER} t0 t1 t2 t3 t4 t5", vector="V",
        kinds=_ANY)
def strided_place(x: np.ndarray, start: int, **scalars: int) -> np.ndarray:
    """out is zero but at b, b+t, .. b+(m-1)*t of each dimension, where it has x[start + q0*s0 + q1*s1 + ...]."""
    sizes, strides, first = _grouped(x.shape[1], start, scalars)
    out = np.zeros(sizes, x.dtype)
    begin, count, step = ([scalars[f"{letter}{i}"] for i in range(RANK)] for letter in "bmt")
    where = tuple(slice(b, b + (m - 1) * t + 1, t) for b, m, t in zip(begin, count, step, strict=True))
    out[where] = _view(x, [*count, sizes[RANK]], strides, first)
    return out


# ---- on the host's side: merge dimensions, choose the kernel ---------------------------------------------------------

def contiguous_strides(shape: Sequence[int]) -> list[int]:
    """Elements from one index to the next along each dimension."""
    strides = [1] * len(shape)
    for i in range(len(shape) - 2, -1, -1):
        strides[i] = strides[i + 1] * shape[i + 1]
    return strides


def _merged(shape: Sequence[int], strides: Sequence[int]) -> tuple[list[int], list[int]]:
    """The same walk over memory with as few dimensions as possible."""
    sizes: list[int] = []
    steps: list[int] = []
    for size, step in zip(shape, strides, strict=True):
        if size == 1:
            continue
        if sizes and steps[-1] == step * size:
            sizes[-1] *= size
            steps[-1] = step
        else:
            sizes.append(size)
            steps.append(step)
    if len(sizes) > RANK:
        raise ShapeError(f"[layout] a copy must have at most {RANK} separate dimensions, got {len(sizes)} for shape "
                         f"{tuple(shape)}. Do it in two steps.")
    return sizes, steps


def _padded(letter: str, values: Sequence[int], neutral: int) -> dict[str, Any]:
    """Scalars letter0 .. letter5, the values last."""
    return {f"{letter}{i}": v for i, v in enumerate([neutral] * (RANK - len(values)) + list(values))}


def _divisible(*numbers: int) -> bool:
    return not any(n % 4 for n in numbers)


def strided(x: Array, shape: Shape, strides: Sequence[int], start: int = 0) -> Array:
    """An Array of `shape` with x[start + sum of index * stride] at each index; x's own memory where nothing moves."""
    if not math.prod(shape):
        return empty(shape, x.dtype, x.backend)
    sizes, steps = _merged(shape, strides)
    if math.prod(shape) == x.size and start == 0 and steps in ([], [1]):
        return x.reshape(*shape)
    if not steps or steps[-1] == 1:
        moved = _run_grouped(strided_copy, x, sizes or [1], steps or [1], start)
    elif 1 in steps and len(sizes) <= 5 and min(sizes[-1], sizes[steps.index(1)]) >= 8:
        moved = _run_transpose(x, sizes, steps, start)
    else:
        moved = run(strided_gather, x.reshape(x.size), start=start, **_padded("n", sizes, 1), **_padded("s", steps, 0))
    return moved.reshape(*shape)


def _run_grouped(made: Kernel, x: Array, sizes: list[int], steps: list[int], start: int, *rest: Array) -> Array:
    """strided_copy of x, or strided_write of x into `rest`, in groups of four where everything divides."""
    width = 4 if _divisible(*steps[:-1], sizes[-1], start, x.size, *[a.size for a in rest]) else 1
    sizes = [*sizes[:-1], sizes[-1] // width]
    steps = [s // width for s in steps[:-1]] + [1]
    arrays = [a.reshape(a.size // width, width) for a in (x, *rest)]
    out: Array = run(made, *arrays, start=start // width, **_padded("n", sizes, 1), **_padded("s", steps, 0))
    return out


def _run_transpose(x: Array, sizes: list[int], steps: list[int], start: int) -> Array:
    along = steps.index(1)
    targets = contiguous_strides(sizes)
    outer = [d for d in range(len(sizes) - 1) if d != along]
    scalars: dict[str, Any] = {"start": start, "N": sizes[along], "M": sizes[-1], "sm": steps[-1], "on": targets[along]}
    for slot in range(3):
        d = outer[slot - 3 + len(outer)] if slot >= 3 - len(outer) else None
        scalars |= {f"n{slot}": 1, f"s{slot}": 0, f"o{slot}": 0} if d is None else {
            f"n{slot}": sizes[d], f"s{slot}": steps[d], f"o{slot}": targets[d]}
    even = _divisible(x.size, sizes[-1], *[v for k, v in scalars.items() if k[0] != "n"])
    width = 4 if x.backend.device.software and even else 1
    out: Array = run(strided_transpose, x.reshape(x.size // width, width), **scalars)
    return out


def permuted(array: Array, axes: Sequence[int]) -> Array:
    """The array with its axes in another order, as numpy.transpose."""
    rank = array.ndim
    order = [a + rank if a < 0 else a for a in axes]
    if sorted(order) != list(range(rank)):
        raise ShapeError(f"[permute] dims must hold each of the {rank} dimensions of {array.shape} once, "
                         f"got {tuple(axes)}.")
    strides = contiguous_strides(array.shape)
    return strided(array, tuple(array.shape[a] for a in order), [strides[a] for a in order])


def expanded(array: Array, shape: Sequence[int]) -> Array:
    """The array repeated along dimensions of size 1 (and new leading ones) to `shape`, as numpy.broadcast_to."""
    new = len(shape) - array.ndim
    if new < 0 or any(a not in (1, n) for a, n in zip(array.shape, shape[max(new, 0):], strict=True)):
        raise ShapeError(f"[expand] shape {array.shape} must broadcast to {tuple(shape)}, but does not.")
    strides = [0 if n == 1 else s for n, s in zip(array.shape, contiguous_strides(array.shape), strict=True)]
    return strided(array, tuple(shape), [0] * new + strides)


def sliced(array: Array, starts: Sequence[int], sizes: Sequence[int], steps: Sequence[int]) -> Array:
    """sizes[d] elements of each dimension d, from starts[d] on in steps of steps[d], which may be negative."""
    strides = contiguous_strides(array.shape)
    first = sum(b * s for b, s in zip(starts, strides, strict=True))
    return strided(array, tuple(sizes), [t * s for t, s in zip(steps, strides, strict=True)], first)


def write_slice(target: Array, values: Array, starts: Sequence[int], steps: Sequence[int]) -> None:
    """In place: target[starts + index * steps] = values[index]; values has the rank of target."""
    if not values.size:
        return
    strides = contiguous_strides(target.shape)
    first = sum(b * s for b, s in zip(starts, strides, strict=True))
    sizes, jumps = _merged(values.shape, [t * s for t, s in zip(steps, strides, strict=True)])
    if not jumps or jumps[-1] != 1:  # strided_write wants an innermost stride of 1
        sizes, jumps = [*sizes, 1], [*jumps, 1]
    _run_grouped(strided_write, values, sizes, jumps, first, target)


def placed(values: Array, shape: Sequence[int], starts: Sequence[int], steps: Sequence[int]) -> Array:
    """Zeros of `shape` with `values` at starts + index * steps: the gradient of `sliced`, and padding. values must not
    be empty."""
    strides = contiguous_strides(values.shape)
    first = 0
    rows: list[list[int]] = []  # size, stride into values, begin, count, step, of each dimension
    for n, m, b, t, s in zip(shape, values.shape, starts, steps, strides, strict=True):
        if n == 1:
            continue
        if t < 0:  # count from the other end of both
            b, first, t, s = b + (m - 1) * t, first + (m - 1) * s, -t, -s
        t = t if m > 1 else 1
        if rows and (b, m) == (0, n) and t == 1 and rows[-1][4] == 1 and rows[-1][1] == s * n:
            last = rows[-1]
            rows[-1] = [last[0] * n, s, last[2] * n, last[3] * n, 1]
        else:
            rows.append([n, s, b, m, t])
    if len(rows) > RANK:
        raise ShapeError(f"[slice] at most {RANK} dimensions may be apart in memory, got {len(rows)} for shape "
                         f"{tuple(shape)}. Do it in two steps.")
    rows = rows or [[1, 1, 0, 1, 1]]
    inner, outer = rows[-1], rows[:-1]
    unit = inner[1] == 1 and inner[4] == 1
    width = 4 if unit and _divisible(first, values.size, *inner[:1], *inner[2:4], *[r[1] for r in outer]) else 1
    rows = [[r[0], r[1] // width, *r[2:]] for r in outer] + [
        [inner[0] // width, inner[1], inner[2] // width, inner[3] // width, inner[4]]]
    columns = dict(zip("nsbmt", zip(*rows, strict=True), strict=True))
    scalars: dict[str, Any] = {k: v for letter, neutral in zip("nsbmt", (1, 0, 0, 1, 1), strict=True)
               for k, v in _padded(letter, columns[letter], neutral).items()}
    out: Array = run(strided_place, values.reshape(values.size // width, width), start=first // width, **scalars)
    return out.reshape(*shape)
