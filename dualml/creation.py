"""Functions that make tensors: from data, filled, counted, random. `backend` is the current one unless named."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any, ParamSpec

import numpy as np

from . import dtypes, runtime
from .array import Array, from_numpy
from .backends.base import Backend
from .dims import sizes_of
from .dtypes import DType, as_dtype
from .errors import BackendError, DTypeError, ShapeError
from .ops import create, random as random_ops
from .random import default_generator
from .tensor import Number, Tensor

DTypeLike = DType | str | None
P = ParamSpec("P")


def places(make: Callable[P, Tensor]) -> Callable[P, Tensor]:
    """The function, which says what there is instead of PyTorch's device=."""
    @wraps(make)
    def call(*args: P.args, **kwargs: P.kwargs) -> Tensor:
        if "device" in kwargs:
            raise BackendError(f"[{make.__name__}] device must be given as backend= (cpu, webgpu, cuda), got device="
                               f"{kwargs['device']!r}. dm.set_backend chooses for all new tensors.")
        return make(*args, **kwargs)
    return call


def _place(backend: str | None) -> Backend:
    return runtime.get(backend) if backend else runtime.current()


def _sizes(op: str, given: tuple[Any, ...]) -> tuple[int, ...]:
    """Sizes of a new tensor, spelled f(2, 3) or f((2, 3))."""
    sizes = sizes_of(given)
    if any(size < 0 for size in sizes):
        raise ShapeError(f"[{op}] sizes must be 0 or more, got {sizes}.")
    return sizes


def _finish(array: Array, requires_grad: bool) -> Tensor:
    made = Tensor(array)
    return made.requires_grad_() if requires_grad else made


@places
def tensor(data: Any, dtype: DTypeLike = None, backend: str | None = None, requires_grad: bool = False) -> Tensor:
    """A tensor with a copy of data: numbers, nested lists, or a NumPy array.

    Python floats become float32, ints int32; NumPy dtypes stay, but integers narrow to int32.
    """
    if isinstance(data, Tensor):
        data = data._array.numpy()
    try:
        host = np.asarray(data)
    except ValueError:
        raise ShapeError("[tensor] nested lists must have equal lengths. Pad the shorter ones.") from None
    if host.dtype == object:
        raise DTypeError(f"[tensor] data must be numbers, nested lists of numbers, or a NumPy array, got {data!r:.60}.")
    if host.dtype.kind not in "fiubV" and dtype is None:
        raise DTypeError(f"[tensor] cannot make a tensor of {host.dtype}.")
    if not isinstance(data, (np.ndarray, np.generic)) and host.dtype == np.float64:
        host = host.astype(np.float32) if dtype is None else host
    kind = as_dtype(dtype) if dtype is not None else None
    if kind is dtypes.int32 or (kind is None and host.dtype != np.uint32):
        check_range(host)
    place = _place(backend)
    if kind is None and host.dtype == np.float64 and dtypes.float64 not in place.dtypes:
        raise DTypeError(f"[tensor] backend {place.name} has no float64, which NumPy makes by default. Pass "
                         "dtype=dm.float32.")
    return _finish(from_numpy(host, kind, place), requires_grad)


def check_range(host: np.ndarray) -> np.ndarray:
    """The same array. Raises DTypeError for integers that int32 does not hold."""
    if host.dtype.kind in "iu" and host.dtype != np.int32 and host.size and (
            host.max() > 2**31 - 1 or host.min() < -2**31):
        raise DTypeError("[tensor] integers must fit int32; pass a floating dtype for larger ones.")
    return host


def from_dlpack(source: Any) -> Tensor:
    """A tensor with the values of any object that speaks DLPack, copied to the cpu backend."""
    return tensor(np.from_dlpack(source), backend="cpu")


@places
def full(shape: Sequence[int] | int, value: Number, dtype: DTypeLike = None, backend: str | None = None,
         requires_grad: bool = False) -> Tensor:
    """A tensor of one value. dtype defaults to that of the value: float32, int32 or bool."""
    size = shape if isinstance(shape, Sequence) else (shape,)
    kind = as_dtype(dtype) if dtype is not None else as_dtype(type(value))
    return _finish(create.fill(_sizes("full", tuple(size)), value, kind, _place(backend)), requires_grad)


@places
def zeros(*shape: Any, dtype: DTypeLike = "float32", backend: str | None = None, requires_grad: bool = False) -> Tensor:
    """A tensor of zeros: zeros(2, 3) or zeros((2, 3))."""
    return full(_sizes("zeros", shape), 0, dtype, backend, requires_grad)


@places
def ones(*shape: Any, dtype: DTypeLike = "float32", backend: str | None = None, requires_grad: bool = False) -> Tensor:
    """A tensor of ones: ones(2, 3) or ones((2, 3))."""
    return full(_sizes("ones", shape), 1, dtype, backend, requires_grad)


@places
def empty(*shape: Any, dtype: DTypeLike = "float32", backend: str | None = None) -> Tensor:
    """A tensor of arbitrary values."""
    from .array import empty as empty_array
    return Tensor(empty_array(_sizes("empty", shape), as_dtype(dtype), _place(backend)))


@places
def full_like(x: Tensor, value: Number, requires_grad: bool = False) -> Tensor:
    """A tensor of one value, of x's shape, dtype and backend."""
    return full(x.shape, value, x.dtype, x.backend, requires_grad)


@places
def zeros_like(x: Tensor, requires_grad: bool = False) -> Tensor:
    """Zeros of x's shape, dtype and backend."""
    return full_like(x, 0, requires_grad)


@places
def ones_like(x: Tensor, requires_grad: bool = False) -> Tensor:
    """Ones of x's shape, dtype and backend."""
    return full_like(x, 1, requires_grad)


@places
def arange(start: Number, stop: Number | None = None, step: Number = 1, dtype: DTypeLike = None,
           backend: str | None = None) -> Tensor:
    """start, start + step, ... below stop; arange(n) counts from 0. int32 unless a float or a dtype is given."""
    first, last = (0, start) if stop is None else (start, stop)
    if step == 0:
        raise ShapeError("[arange] step must not be 0.")
    whole = all(isinstance(v, (int, np.integer)) for v in (first, last, step))
    kind = as_dtype(dtype) if dtype is not None else dtypes.int32 if whole else dtypes.float32
    count = max(0, math.ceil((last - first) / step))
    return Tensor(create.arange(first, step, count, kind, _place(backend)))


@places
def linspace(start: float, stop: float, steps: int, dtype: DTypeLike = "float32", backend: str | None = None) -> Tensor:
    """steps evenly spaced values from start to stop, both included."""
    return Tensor(create.linspace(start, stop, steps, as_dtype(dtype), _place(backend)))


@places
def eye(n: int, m: int | None = None, dtype: DTypeLike = "float32", backend: str | None = None) -> Tensor:
    """A matrix with ones on the diagonal."""
    return Tensor(create.eye(n, n if m is None else m, as_dtype(dtype), _place(backend)))


@places
def rand(*shape: Any, dtype: DTypeLike = "float32", backend: str | None = None, requires_grad: bool = False) -> Tensor:
    """Uniform in [0, 1); the same numbers on every backend for one seed."""
    made = random_ops.uniform(_sizes("rand", shape), as_dtype(dtype), _place(backend), default_generator())
    return _finish(made, requires_grad)


@places
def randn(*shape: Any, dtype: DTypeLike = "float32", backend: str | None = None, requires_grad: bool = False) -> Tensor:
    """Standard normal."""
    made = random_ops.normal(_sizes("randn", shape), as_dtype(dtype), _place(backend), default_generator())
    return _finish(made, requires_grad)


@places
def randint(low: int, high: int, size: Sequence[int] | int, dtype: DTypeLike = "int32",
            backend: str | None = None) -> Tensor:
    """Integers in [low, high); exactly the same on every backend for one seed."""
    made = random_ops.randint(low, high, _sizes("randint", (size,)), _place(backend), default_generator())
    return Tensor(made).to(as_dtype(dtype))


@places
def randperm(n: int, backend: str | None = None) -> Tensor:
    """A random permutation of 0 ... n-1. Drawn on the host, from the same generator."""
    return Tensor(random_ops.randperm(n, _place(backend), default_generator()))


@places
def rand_like(x: Tensor) -> Tensor:
    """Uniform in [0, 1), of x's shape, dtype and backend."""
    return rand(*x.shape, dtype=x.dtype, backend=x.backend)


@places
def randn_like(x: Tensor) -> Tensor:
    """Standard normal, of x's shape, dtype and backend."""
    return randn(*x.shape, dtype=x.dtype, backend=x.backend)
