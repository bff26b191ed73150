"""Array: device memory with a shape and a dtype. Always contiguous, no gradients. `run` launches a kernel on Arrays."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from . import runtime
from .backends.base import Backend, Binding, Buffer
from .dtypes import DType, float32, from_numpy_dtype
from .errors import BackendError, ShapeError
from .kernel import Kernel, Scalar, Spec, drop_oldest

Shape = tuple[int, ...]
_MOST_PLANS = 128  # of one kernel, the oldest dropped: a scalar may be new at every launch, such as dropout's offset


class Array:
    """`offset` is in elements; it is nonzero only for views into an arena (parameters, packed gradients)."""

    __slots__ = ("__weakref__", "buffer", "dtype", "offset", "shape")

    def __init__(self, buffer: Buffer, shape: Shape, dtype: DType, offset: int = 0) -> None:
        self.buffer = buffer
        self.shape = shape
        self.dtype = dtype
        self.offset = offset

    @property
    def backend(self) -> Backend:
        return self.buffer.backend

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def nbytes(self) -> int:
        return self.size * self.backend.storage(self.dtype).itemsize

    def reshape(self, *shape: int) -> Array:
        """The same memory under another shape; one dimension may be -1."""
        if -1 in shape:
            known = -math.prod(shape)
            shape = tuple((self.size // known if known else 0) if d == -1 else d for d in shape)
        if math.prod(shape) != self.size or min(shape, default=0) < 0:
            raise ShapeError(f"[reshape] shape must hold {self.size} elements like {self.shape}, got {shape}.")
        return Array(self.buffer, shape, self.dtype, self.offset)

    def slot(self, start: int, shape: Shape) -> Array:
        """A view of `shape` that begins `start` elements in. The start must be on the backend's alignment."""
        itemsize = self.backend.storage(self.dtype).itemsize
        if (self.offset + start) * itemsize % self.backend.alignment:
            raise ShapeError(f"[slot] a view must begin at a multiple of {self.backend.alignment} bytes, "
                             f"got element {start} of {itemsize} bytes.")
        return Array(self.buffer, shape, self.dtype, self.offset + start)

    def binding(self) -> Binding:
        itemsize = self.backend.storage(self.dtype).itemsize
        return Binding(self.buffer, self.offset * itemsize, self.size * itemsize)

    def numpy(self) -> np.ndarray:
        """A fresh NumPy array with the values, after everything launched so far."""
        stored, seen = self.backend.storage(self.dtype), runtime.recorder()
        if seen is not None:
            seen.read(self.buffer)
        flat = self.backend.read(self.buffer, self.offset * stored.itemsize, stored, self.size)
        return flat.astype(self.dtype.host, copy=False).reshape(self.shape)

    def write(self, values: np.ndarray) -> None:
        """Replaces the content by values of the same size."""
        stored = self.backend.storage(self.dtype)
        data = np.ascontiguousarray(values, self.dtype.host).astype(stored, copy=False)
        if data.size != self.size:
            raise ShapeError(f"[write] expected {self.size} values for shape {self.shape}, got {data.shape}.")
        if self.size:
            self.backend.write(self.buffer, self.offset * stored.itemsize, data.reshape(-1))
            seen = runtime.recorder()
            if seen is not None:
                seen.written(self.buffer, self.offset * stored.itemsize, data)
        self.buffer.version += 1

    def copy_from(self, other: Array) -> None:
        """Replaces the content by another Array's of the same size, dtype and backend."""
        if (other.size, other.dtype, other.backend) != (self.size, self.dtype, self.backend):
            raise ShapeError(f"[copy] expected {self.size} values like {self}, got {other}.")
        if (other.buffer, other.offset) == (self.buffer, self.offset):  # WebGPU refuses to copy a buffer onto itself
            return
        source, target, seen = other.binding(), self.binding(), runtime.recorder()
        if target.nbytes:
            self.backend.copy(other.buffer, source.offset, self.buffer, target.offset, target.nbytes)
            if seen is not None:
                seen.copied(source, target)
        self.buffer.version += 1

    def copy(self) -> Array:
        """The same values in memory of their own."""
        made = empty(self.shape, self.dtype, self.backend)
        made.copy_from(self)
        return made

    def __repr__(self) -> str:
        return f"Array({self.shape}, {self.dtype.name}, {self.backend.name})"


def empty(shape: Shape, dtype: DType = float32, backend: Backend | None = None) -> Array:
    """An Array of arbitrary content."""
    backend = backend or runtime.current()
    backend.check_dtype("empty", dtype)
    buffer, seen = backend.alloc(math.prod(shape) * backend.storage(dtype).itemsize), runtime.recorder()
    if seen is not None:
        seen.allocated(buffer)
    return Array(buffer, tuple(shape), dtype)


def from_numpy(values: Any, dtype: DType | None = None, backend: Backend | None = None) -> Array:
    """An Array with the values of anything NumPy understands."""
    host = np.asarray(values)
    made = empty(host.shape, dtype or from_numpy_dtype(host.dtype), backend)
    if made.size:
        made.write(host)
    made.buffer.version = 0
    return made


def _one_backend(kernel: Kernel, arrays: tuple[Array, ...], like: Array | None) -> Backend:
    if not arrays:
        return like.backend if like is not None else runtime.current()
    backend = arrays[0].backend
    for array in arrays:
        if array.backend is not backend:
            raise BackendError(f"[{kernel.name}] all tensors must be on one backend, got {backend.name} and "
                               f"{array.backend.name}. Move one with .to({backend.name!r}).")
    return backend


@dataclass(frozen=True, slots=True)
class _Plan:
    """What a kernel's launches with the same shapes, dtypes and scalars have in common. `outputs`: name, shape, dtype
    and size of each; `params` is None where there is nothing to do."""

    spec: Spec
    program: Any
    dims: Mapping[str, Scalar]
    outputs: tuple[tuple[str, Shape, DType, int], ...]
    params: bytes | None
    groups: int


def _plan(kernel: Kernel, target: Backend, arrays: tuple[Array, ...], types: dict[str, DType],
          scalars: dict[str, Scalar]) -> _Plan:
    """The plan of a launch, kept for the next one."""
    plans: dict[Any, _Plan] = kernel.made_for(target).plans
    key = (tuple([(a.shape, a.dtype) for a in arrays]), *types.items(),
           *[v or repr(v) for v in scalars.values()], *scalars)  # 0 and -0.0 are equal, and not the same
    found = plans.get(key)
    if found is None:
        if len(plans) >= _MOST_PLANS:
            drop_oldest(plans)
        found = plans[key] = _make_plan(kernel, target, arrays, types, scalars)
    return found


def _make_plan(kernel: Kernel, target: Backend, arrays: tuple[Array, ...], types: dict[str, DType],
               scalars: dict[str, Scalar]) -> _Plan:
    dims = kernel.bind([a.shape for a in arrays], scalars)
    bound = kernel.bind_types([a.dtype for a in arrays], types)
    for _, dtype in bound:
        if dtype not in target.dtypes:
            target.check_dtype(kernel.name, dtype)
    spec, program, count = runtime.specialise(target, kernel, bound, dims)
    shapes = [tuple([kernel.size(d, dims) for d in arg.dims]) for arg in kernel.outputs]
    outputs = tuple([(arg.name, shape, spec.dtype(arg), math.prod(shape))
                     for arg, shape in zip(kernel.outputs, shapes, strict=True)])
    if not any(size for *_, size in outputs) and not any(arrays[i].size for i in kernel.updated):
        return _Plan(spec, program, dims, outputs, None, 0)
    groups = count(dims)
    values = dict(dims, groups=groups)
    params = np.array(tuple([values[n] for n, _ in kernel.params]), spec.struct).tobytes()
    return _Plan(spec, program, dims, outputs, params, groups)


def run(kernel: Kernel, *arrays: Array, types: dict[str, DType] | None = None, backend: Backend | None = None,
        out: tuple[Array | None, ...] = (), **scalars: Scalar) -> Any:
    """Launches a kernel. Returns its outputs: one Array, a tuple of several, or None where all work is in place.

    Args:
        arrays: the inputs, in the signature's order.
        types: dtypes of letters that no input binds (the result of a cast).
        backend: where to run a kernel that has no inputs; the current one by default.
        out: Arrays to write into, by output; None, or nothing, allocates.
        scalars: the scalars of the signature, all of them.
    """
    target = backend or _one_backend(kernel, arrays, None)
    plan = _plan(kernel, target, arrays, types or {}, scalars)
    results = []
    for index, (arg, shape, dtype, size) in enumerate(plan.outputs):
        given = out[index] if index < len(out) else None
        if given is not None:
            if given.size != size or given.dtype is not dtype:
                raise ShapeError(f"[{kernel.name}] out for {arg} must be {dtype.name} of shape {shape}, "
                                 f"got {given.dtype.name} of {given.shape}.")
            given.buffer.version += 1
        results.append(given if given is not None else empty(shape, dtype, target))
    for index in kernel.updated:
        arrays[index].buffer.version += 1
    if plan.params is not None:
        bindings = [a.binding() for a in (*arrays, *results)]
        runtime.launch(runtime.Launch(target, plan.spec, plan.program, bindings, plan.params, plan.groups, plan.dims))
    return results[0] if len(results) == 1 else tuple(results) if results else None
