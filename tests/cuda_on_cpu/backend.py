"""The backend cuda_on_cpu: NumPy-side memory between guard pages, kernels run block by block by device/runtime.cpp."""

from __future__ import annotations

import atexit
import ctypes
import os
import tempfile
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dualml import dtypes
from dualml.backends.base import Backend, Binding, Buffer
from dualml.backends.nvrtc import inline_headers
from dualml.backends.sources import cuda_source
from dualml.errors import BackendError, KernelError, OutOfMemoryError
from dualml.kernel import DeviceInfo, Spec

from . import compiler

_SET_REPORT_FD = "__sanitizer_set_report_fd"  # spelled as text, since Python mangles such names in classes
_ORDERS = {"forward": 0, "reversed": 1, "shuffled": 2}


def settings(text: str) -> tuple[str, tuple[int, ...]]:
    """The sanitizer and the orders of a DUALML_CUDA_ON_CPU value."""
    sanitizer, orders = "", []
    for word in text.replace(",", " ").split():
        name, _, seed = word.partition("=")
        if name in _ORDERS:
            orders.append(_ORDERS[name] + int(seed or 0))
        elif word in compiler.SANITIZERS:
            sanitizer = word
        else:
            raise BackendError(f"[cuda_on_cpu] DUALML_CUDA_ON_CPU must list asan, tsan, forward, reversed or "
                               f"shuffled=SEED, got {word!r}.")
    return sanitizer, tuple(orders) or (0, 1)


class _Reports:
    """What a sanitizer of this process wrote since it was last asked."""

    def __init__(self, sanitizer: str) -> None:
        self.file = tempfile.TemporaryFile()  # noqa: SIM115  (open as long as the process)
        atexit.register(self.file.close)
        self.seen = 0
        if sanitizer:  # asan's part for bounds and alignment is a library of its own; the rest comes through the launch
            library = ctypes.CDLL({"asan": "libubsan.so.1", "tsan": None}[sanitizer])
            getattr(library, _SET_REPORT_FD)(ctypes.c_void_p(self.file.fileno()))

    def fresh(self) -> str:
        size = os.fstat(self.file.fileno()).st_size
        text, self.seen = os.pread(self.file.fileno(), size - self.seen, self.seen), size
        return text.decode(errors="replace")


@dataclass(frozen=True)
class Program:
    spec: Spec
    library: ctypes.CDLL  # keeps the unit alive
    unit: compiler.Unit
    written: tuple[int, ...]


class CudaOnCpuBackend(Backend):
    """`orders` are the schedules that each launch runs under, from the same memory; all must leave the same bits."""

    name = "cuda_on_cpu"
    dtypes = frozenset(dtypes.ALL) - {dtypes.float64}

    def __init__(self) -> None:
        self.sanitizer, self.orders = settings(os.environ.get("DUALML_CUDA_ON_CPU", ""))
        if self.sanitizer and not hasattr(ctypes.CDLL(None), f"__{self.sanitizer}_init"):
            raise BackendError(f"[cuda_on_cpu] {self.sanitizer} must be loaded before Python. Run "
                               f"python -m tests.cuda_on_cpu {self.sanitizer} -m pytest ...")
        self.device = DeviceInfo("cuda", "CUDA on CPU", compiler.compiler(), subgroup_size=32, arch=80)
        self._lib = compiler.load_runtime(self.sanitizer)
        self._reports = _Reports(self.sanitizer)
        self._lock = threading.Lock()  # the runtime has one block under way
        self.in_use = self.peak = 0

    def alloc(self, nbytes: int) -> Buffer:
        address = self._lib.cuda_cpu_alloc(nbytes)
        if not address:
            raise OutOfMemoryError(f"[alloc] the host has no {nbytes / 2**20:.0f} MiB to give.")
        self.in_use += nbytes
        self.peak = max(self.peak, self.in_use)
        return Buffer(self, address, nbytes)

    def free(self, handle: Any, nbytes: int) -> None:
        self._lib.cuda_cpu_free(handle, nbytes)
        self.in_use -= nbytes

    def write(self, buffer: Buffer, offset: int, data: np.ndarray) -> None:
        _bytes(buffer, offset, data.nbytes)[:] = data.reshape(-1).view(np.uint8)

    def read(self, buffer: Buffer, offset: int, dtype: np.dtype, count: int) -> np.ndarray:
        return _bytes(buffer, offset, count * dtype.itemsize).copy().view(dtype)

    def copy(self, source: Buffer, source_offset: int, target: Buffer, target_offset: int, nbytes: int) -> None:
        _bytes(target, target_offset, nbytes)[:] = _bytes(source, source_offset, nbytes)

    def synchronize(self) -> None:
        pass

    def memory(self) -> dict[str, int]:
        return {"in_use": self.in_use, "peak": self.peak, "pool": 0}

    def counted(self) -> np.ndarray:
        """So far: products on tensor cores (mma.sync of a warp), and bytes of asynchronous copies."""
        counters = (f"cuda_cpu_{name}" for name in ("products", "copied"))
        return np.array([ctypes.c_ulonglong.in_dll(self._lib, name).value for name in counters])

    def build(self, spec: Spec) -> Program:
        source = inline_headers(cuda_source(spec, self.device))
        library, unit = compiler.load_kernel(spec, source, self.sanitizer)
        return Program(spec, library, unit, tuple(i for i, a in enumerate(spec.kernel.args) if a.access != "read"))

    def launch(self, program: Any, bindings: Sequence[Binding], params: bytes, groups: int) -> None:
        targets = [_bytes(bindings[i].buffer, bindings[i].offset, bindings[i].nbytes) for i in program.written]
        before = [t.copy() for t in targets] if len(self.orders) > 1 else []
        results: list[np.ndarray] = []
        for order in self.orders:
            if results:
                for target, old in zip(targets, before, strict=True):
                    target[:] = old
            self._run(program, bindings, params, groups, order)
            if before and not results:
                results = [t.copy() for t in targets]
            for index, result, target in zip(program.written, results, targets, strict=False):
                if not np.array_equal(result, target):
                    raise KernelError(f"[{program.spec.kernel.name}] {program.spec.kernel.args[index].name} has other "
                                      f"bits under order {order} than under {self.orders[0]}: a barrier is missing, or "
                                      "blocks depend on each other.")

    def _run(self, program: Program, bindings: Sequence[Binding], params: bytes, groups: int, order: int) -> None:
        name, block = program.spec.kernel.name, program.spec.block
        fields = ctypes.create_string_buffer(params, len(params))
        pointers = [b.buffer.handle + b.offset for b in bindings]
        arguments = (ctypes.c_void_p * (len(pointers) + 1))(*pointers, ctypes.addressof(fields))
        with self._lock:
            error = self._lib.cuda_cpu_launch(ctypes.addressof(program.unit), arguments, groups, block, order)
        found = (error.decode().partition("Shadow bytes")[0] if error else "") + self._reports.fresh()
        if found:
            raise KernelError(f"[{name}] {found}")
        for arg, bound in zip(program.spec.kernel.args, bindings, strict=True):
            side = self._lib.cuda_cpu_overrun(bound.buffer.handle, bound.buffer.nbytes)
            if side:
                raise KernelError(f"[{name}] wrote {'before' if side == 1 else 'after'} {arg.name}.")


def _bytes(buffer: Buffer, offset: int, nbytes: int) -> np.ndarray:
    """A view of device memory, which here is the host's."""
    return np.ctypeslib.as_array((ctypes.c_uint8 * nbytes).from_address(buffer.handle + offset))
