"""The cpu backend: every kernel is its NumPy reference. The oracle of the others, and what runs without a GPU."""

from __future__ import annotations

import math
import os
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import dtypes
from ..dtypes import DType
from ..errors import OutOfMemoryError
from ..kernel import DeviceInfo, Spec, drop_oldest
from .base import Backend, Binding, Buffer, Frozen, Replay
from .blas import Threads
from .malloc import keep_freed_memory

_ALIGN = 64
_MOST_SIZES = 128  # sets of parameters whose shapes a kernel remembers
Bytes = np.ndarray


def _aligned(nbytes: int) -> Bytes:
    raw = np.empty(nbytes + _ALIGN, np.uint8)
    start = -raw.ctypes.data % _ALIGN
    return raw[start:start + nbytes]


class _Memory:
    """A buffer's bytes, made when first touched: most kernels hand over an array that NumPy has already allocated."""

    __slots__ = ("array", "nbytes")

    def __init__(self, nbytes: int) -> None:
        self.nbytes = nbytes
        self.array: Bytes | None = None

    def bytes(self) -> Bytes:
        if self.array is None:
            try:
                self.array = _aligned(self.nbytes)
            except MemoryError:
                raise OutOfMemoryError(f"[alloc] the host has no {self.nbytes / 2**20:.0f} MiB to give.") from None
        return self.array


class CpuBackend(Backend):
    name = "cpu"
    dtypes = frozenset(dtypes.ALL)
    packs = False

    def __init__(self) -> None:
        keep_freed_memory()
        self.in_use = self.peak = 0
        self.threads = Threads()
        self.device = DeviceInfo("cpu", platform.processor() or platform.machine(), f"NumPy {np.__version__}",
                                 software=True, limits={"cores": os.cpu_count() or 1})

    @property
    def own_products(self) -> bool:
        return False  # NumPy's BLAS is given one at a time

    def storage(self, dtype: DType) -> np.dtype:
        return dtype.host

    def alloc(self, nbytes: int) -> Buffer:
        self.in_use += nbytes
        self.peak = max(self.peak, self.in_use)
        return Buffer(self, _Memory(nbytes), nbytes)

    def free(self, handle: Any, nbytes: int) -> None:
        self.in_use -= nbytes

    def write(self, buffer: Buffer, offset: int, data: np.ndarray) -> None:
        buffer.handle.bytes()[offset:offset + data.nbytes] = data.reshape(-1).view(np.uint8)

    def read(self, buffer: Buffer, offset: int, dtype: np.dtype, count: int) -> np.ndarray:
        return self.view(buffer, offset, dtype, count).copy()

    def view(self, buffer: Buffer, offset: int, dtype: np.dtype, count: int) -> np.ndarray:
        """The buffer's own memory as a 1-D array."""
        flat: np.ndarray = buffer.handle.bytes()[offset:offset + count * dtype.itemsize].view(dtype)
        return flat

    def copy(self, source: Buffer, source_offset: int, target: Buffer, target_offset: int, nbytes: int) -> None:
        target.handle.bytes()[target_offset:target_offset + nbytes] = \
            source.handle.bytes()[source_offset:source_offset + nbytes]

    def build(self, spec: Spec) -> Callable[..., None]:
        return _Reference(spec)

    def launch(self, program: Any, bindings: Sequence[Binding], params: bytes, groups: int) -> None:
        self.threads.refresh()
        program(self, bindings, params)

    def freeze(self, launches: Sequence[Frozen]) -> Replay:
        def replay(outputs: Sequence[Binding] = ()) -> list[Buffer]:
            for one in launches:
                if one.program is None:
                    self.copy_bound(*one.bindings)
                else:
                    self.launch(one.program, one.bindings, one.params, one.groups)
                for buffer in one.released:
                    buffer.handle.array = None
            return self.copies(outputs)
        return replay

    def synchronize(self) -> None:
        pass

    def memory(self) -> dict[str, int]:
        return {"in_use": self.in_use, "peak": self.peak, "pool": 0}


@dataclass(slots=True)
class _Sizes:
    """What one set of parameter bytes says: the scalars, and the shape of every argument."""

    scalars: dict[str, Any]
    shapes: list[tuple[int, ...]]
    counts: list[int]


class _Reference:
    """Runs a reference on NumPy views of the bindings. 16-bit floats are computed in float32, like on the GPUs."""

    def __init__(self, spec: Spec) -> None:
        self.spec = spec
        self.kernel = kernel = spec.kernel
        self.hosts = [spec.dtype(a).host for a in kernel.args]
        self.widened = [spec.dtype(a).name in ("float16", "bfloat16") for a in kernel.args]
        self.targets = [*kernel.updated, *range(len(kernel.inputs), len(kernel.args))]
        self.constants = {n: v for n, v in spec.constants if n in dict(kernel.scalars)}
        self.names = [n for n, _ in kernel.scalars if n not in kernel.static]
        self.known: dict[bytes, _Sizes] = {}

    def _sizes(self, params: bytes) -> _Sizes:
        fields = np.frombuffer(params, self.spec.struct)[0]
        scalars = {n: fields[n].item() for n in self.names} | self.constants
        dims = dict(self.spec.constants) | {n: fields[n].item() for n, _ in self.kernel.params} | scalars
        shapes = [tuple(self.kernel.size(d, dims) for d in arg.dims) for arg in self.kernel.args]
        if len(self.known) >= _MOST_SIZES:  # a scalar that is new at every launch, such as dropout's offset
            drop_oldest(self.known)
        found = self.known[params] = _Sizes(scalars, shapes, [math.prod(s) for s in shapes])
        return found

    def __call__(self, backend: CpuBackend, bindings: Sequence[Binding], params: bytes) -> None:
        sizes = self.known.get(params) or self._sizes(params)
        arrays = []
        for index in range(len(self.kernel.inputs)):
            bound = bindings[index]
            array = backend.view(bound.buffer, bound.offset, self.hosts[index], sizes.counts[index])
            array = array.reshape(sizes.shapes[index])
            arrays.append(array.astype(np.float32) if self.widened[index] else array)
        with np.errstate(all="ignore"):
            result = self.kernel.reference(*arrays, **sizes.scalars)
            results = result if isinstance(result, tuple) else (result,)
            for index, value in zip(self.targets, results, strict=True):
                made = np.asarray(value, self.hosts[index]).reshape(sizes.shapes[index])
                self._store(backend, bindings[index], made, arrays)

    @staticmethod
    def _store(backend: CpuBackend, bound: Binding, value: np.ndarray, inputs: list[np.ndarray]) -> None:
        memory: _Memory = bound.buffer.handle
        whole = bound.offset == 0 and value.nbytes == memory.nbytes
        fresh = memory.array is None and value.flags.c_contiguous and value.flags.writeable
        if whole and fresh and not any(np.may_share_memory(value, x) for x in inputs):
            memory.array = value.reshape(-1).view(np.uint8)  # adopt the reference's own array: no copy
            return
        flat = backend.view(bound.buffer, bound.offset, value.dtype, value.size)
        if not np.may_share_memory(flat, value):
            flat[...] = value.reshape(-1)
        elif flat.ctypes.data != value.ctypes.data or not value.flags.c_contiguous:
            flat[...] = value.reshape(-1).copy()
