"""Arrays made on the device from a few numbers: fill, arange, linspace, eye. Plain functions: nothing to differentiate.

Numbers come as float32 (`start`) and as int32 (`whole`), because either alone loses values of the other kind; the
kernel takes the one its dtype asks for.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from ..array import Array, Shape, run
from ..backends.base import Backend
from ..dtypes import DType, float32, int32
from ..errors import DTypeError
from ..kernel import Kernel, kernel

_ANY = {"F": "fib"}


@kernel("-> out[N] | N:u32 value whole:i32 floating:u32", groups="cdiv(N, BLOCK*W)", software_block=64,
        static="floating", vector="N", kinds=_ANY)
def fill_forward(N: int, value: float, whole: int, floating: int) -> np.ndarray:
    return np.full(N, value if floating else whole)


@kernel("-> out[N] | N:u32 start step first:i32 stride:i32 floating:u32", groups="cdiv(N, BLOCK)", software_block=64,
        static="floating", kinds={"F": "fi"})
def arange_forward(N: int, start: float, step: float, first: int, stride: int, floating: int) -> np.ndarray:
    return np.arange(N) * step + start if floating else np.arange(N) * stride + first


@kernel("-> out[N] | N:u32 start stop step", groups="cdiv(N, BLOCK)", software_block=64)
def linspace_forward(N: int, start: float, stop: float, step: float) -> np.ndarray:
    """Each half counts from its own end, so that both ends are exact."""
    i = np.arange(N)
    return np.where(2 * i < N, start + i * step, stop - (N - 1 - i) * step)


@kernel("-> out[N,M] | N:u32 M:u32", groups="cdiv(N*M, BLOCK)", software_block=64, kinds=_ANY)
def eye_forward(N: int, M: int) -> np.ndarray:
    return np.eye(N, M)


def _whole(name: str, number: float, dtype: DType) -> int:
    """The bits of an integer as int32; 0 for floating dtypes, whose kernels do not look at it."""
    if dtype.is_floating_point:
        return 0
    low, high = (0, 2**32) if dtype is not int32 else (-2**31, 2**31)
    if not low <= number < high:
        raise DTypeError(f"[{name}] a value of dtype {dtype.name} must be from {low} to {high - 1}, got {number}.")
    return (int(number) + 2**31) % 2**32 - 2**31


def fill(shape: Shape, value: float, dtype: DType = float32, backend: Backend | None = None) -> Array:
    """An Array with one value everywhere."""
    whole = _whole("fill", value if dtype.kind != "b" else bool(value), dtype)
    out: Array = run(fill_forward, backend=backend, types={"F": dtype}, N=math.prod(shape), value=float(value),
                     whole=whole, floating=int(dtype.is_floating_point))
    return out.reshape(*shape)


def arange(start: float, step: float, count: int, dtype: DType = int32, backend: Backend | None = None) -> Array:
    """count numbers from start on, in steps of step."""
    whole = not dtype.is_floating_point
    for end in (start, start + (count - 1) * step) if whole and count else ():
        _whole("arange", end, dtype)
    out: Array = run(arange_forward, backend=backend, types={"F": dtype}, N=count, start=float(start), step=float(step),
                     first=_whole("arange", start, dtype), stride=int(step) if whole else 0, floating=int(not whole))
    return out


def linspace(start: float, stop: float, count: int, dtype: DType = float32, backend: Backend | None = None) -> Array:
    """count numbers at equal distances, both ends among them."""
    out: Array = run(linspace_forward, backend=backend, types={"F": dtype}, N=count, start=float(start),
                     stop=float(stop), step=(stop - start) / max(1, count - 1))
    return out


def eye(rows: int, columns: int | None = None, dtype: DType = float32, backend: Backend | None = None) -> Array:
    """Ones on the diagonal, zeros elsewhere."""
    out: Array = run(eye_forward, backend=backend, types={"F": dtype}, N=rows, M=rows if columns is None else columns)
    return out


def kernel_cases(rng: np.random.Generator) -> Iterator[tuple[Kernel, tuple[np.ndarray, ...], dict[str, Any]]]:
    """Sample launches of this module's kernels: kernel, inputs and scalars."""
    for size in (1, 7, 8, 1025):
        yield fill_forward, (), {"N": size, "value": 0.375, "whole": 0, "floating": 1}
        yield arange_forward, (), {"N": size, "start": -2.5, "step": 0.25, "first": 0, "stride": 0, "floating": 1}
        yield linspace_forward, (), {"N": size, "start": -1.0, "stop": 2.0, "step": 3.0 / max(1, size - 1)}
        yield eye_forward, (), {"N": size, "M": 5}
