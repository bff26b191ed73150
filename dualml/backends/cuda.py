"""The cuda backend: the kernels of cuda/ by NVRTC and the CUDA driver, through CuPy. The only file that imports CuPy.

All work goes to one stream of our own, in order; nothing waits but reads and synchronize. Kernels are compiled for the
device at hand (nvrtc.py). Captured steps become CUDA graphs (cuda_graph.py), recorded on more streams. Where a vendor
library fulfils a kernel's contract it runs in its place (cublas.py), but with `vendor = False`: so ours stay tested,
measured.
"""

from __future__ import annotations

import ctypes
import threading
import warnings
from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np

from .. import dtypes
from ..config import config
from ..dtypes import DType
from ..errors import BackendError, DeviceLostError, OutOfMemoryError
from ..kernel import DeviceInfo, Spec
from .assembly import ptx, show
from .base import Backend, Binding, Buffer, Frozen, Replay
from .cublas import Cublas, Joined, Matmul, has_epilogue
from .cuda_graph import Clock, Graph
from .nvrtc import Compiler, dynamic_shared, inline_headers
from .sources import cuda_source

_PLENTY_SHARED = 16 << 10  # from here on a kernel asks for a large share of shared memory, and for leave to use it
_STAGING = 64 << 20        # bytes of host memory that writes under way may hold
_MAX_DYNAMIC_SHARED, _CARVEOUT = 8, 9  # CUfunction_attribute; the latter in percent
_OUT_OF_MEMORY = 2
# After these the process's context is unusable (CUDA runtime API, cudaError: "the process must be terminated").
_FATAL = {4, 46, 214, 220, 226, 700, 702, 709, 710, 714, 715, 716, 717, 718, 719, 999}


# ---- the backend ----------------------------------------------------------------------------------------------------

class CudaBackend(Backend):
    """The first CUDA device (CUDA_VISIBLE_DEVICES chooses)."""

    name = "cuda"
    dtypes = frozenset(dtypes.ALL) - {dtypes.float64}
    vendor = True
    streams = 2  # for the next captured step: as many launches may run side by side; 1 makes it a chain

    def __init__(self) -> None:
        self.cupy = cupy = _import_cupy()
        self.runtime, self.driver = cupy.cuda.runtime, cupy.cuda.driver
        try:
            self._ordinal = self.runtime.getDevice()
            self.dlpack_device = (2, self._ordinal)
            properties = self.runtime.getDeviceProperties(self._ordinal)
            self.stream = cupy.cuda.Stream(non_blocking=True)
            self.lanes = [self.stream]  # and others, that captured steps are recorded on
            memory = self.runtime.memGetInfo()[1]
        except RuntimeError as error:
            raise BackendError(f"[cuda] no CUDA device answers: {error}. Install NVIDIA's driver, or the CuPy for the "
                               "CUDA version of the driver that is there.") from error
        arch = properties["major"] * 10 + properties["minor"]
        version = self.runtime.driverGetVersion()
        limits = {"memory": memory, "multiprocessors": properties["multiProcessorCount"],
                  "shared-memory": properties["sharedMemPerBlockOptin"]}
        self.device = DeviceInfo("cuda", properties["name"].decode(), f"CUDA {version // 1000}.{version % 1000 // 10}",
                                 subgroup_size=32, limits=limits, arch=arch)
        self.pool = cupy.cuda.MemoryPool()
        self._compiler = Compiler.of(cupy, arch)
        self._staged: deque[tuple[Any, Any, int]] = deque()  # event, host memory, bytes of writes under way
        self._staged_bytes = 0
        self._lock = threading.RLock()  # launches of a program share memory, and a graph records all that is enqueued
        self._cublas: dict[Any, Cublas] = {}  # by stream
        self._clock: Clock | None = None
        self._thread = threading.local()
        self.in_use = self.peak = 0

    def _enter(self) -> None:
        """Before the driver is called: to a thread that has not chosen a device it answers that there is none."""
        if not hasattr(self._thread, "chosen"):
            try:
                self.runtime.setDevice(self._ordinal)
            except RuntimeError as error:
                raise _translate(error) from error
            self._thread.chosen = True

    @property
    def own_products(self) -> bool:
        return not self.vendor

    def joins(self, what: str, dtype: DType) -> bool:
        """cuBLAS does nothing besides a product, our kernels do all, cuBLASLt some."""
        return not self.vendor or (config.cublaslt and has_epilogue(what, dtype))

    # ---- memory ----

    def alloc(self, nbytes: int) -> Buffer:
        self._enter()
        try:
            handle = self.pool.malloc(max(nbytes, 1))
        except self.cupy.cuda.memory.OutOfMemoryError as error:
            raise OutOfMemoryError(f"[alloc] {self.device.name} has no {nbytes / 2**20:.1f} MiB left; "
                                   f"{self.in_use / 2**20:.0f} MiB are in use. Use a smaller batch.") from error
        except RuntimeError as error:
            raise _translate(error) from error
        self.in_use += nbytes
        self.peak = max(self.peak, self.in_use)
        return Buffer(self, handle, nbytes)

    def free(self, handle: Any, nbytes: int) -> None:
        """The pool takes the memory back as the handle goes. Whoever gets it next comes later on the same stream."""
        self.in_use -= nbytes

    def write(self, buffer: Buffer, offset: int, data: np.ndarray) -> None:
        """Through pinned memory, so that the caller may change the data and need not wait for the device."""
        if not data.nbytes:
            return
        self._enter()
        try:
            with self._lock:
                self._await_staged(data.nbytes)
                host = self.cupy.cuda.alloc_pinned_memory(data.nbytes)
                ctypes.memmove(host.ptr, data.ctypes.data, data.nbytes)
                self.runtime.memcpyAsync(buffer.handle.ptr + offset, host.ptr, data.nbytes,
                                         self.runtime.memcpyHostToDevice, self.stream.ptr)
                self._staged.append((self._mark(), host, data.nbytes))
                self._staged_bytes += data.nbytes
        except RuntimeError as error:
            raise _translate(error) from error

    def _mark(self) -> Any:
        """An event after all that was enqueued. Called with the lock held; may be waited for without it, unlike the
        stream, on which another thread may then be recording a graph."""
        event = self.cupy.cuda.Event(disable_timing=True)
        event.record(self.stream)
        return event

    def _await_staged(self, nbytes: int) -> None:
        """Lets go of host memory whose write is done; waits for the oldest where too much is held."""
        while self._staged:
            event, _, held = self._staged[0]
            if self._staged_bytes + nbytes > _STAGING:
                event.synchronize()
            elif not event.done:
                return
            self._staged.popleft()
            self._staged_bytes -= held

    def read(self, buffer: Buffer, offset: int, dtype: np.dtype, count: int) -> np.ndarray:
        self._enter()
        host = np.empty(count, dtype)
        try:
            with self._lock:
                if count:
                    self.runtime.memcpyAsync(host.ctypes.data, buffer.handle.ptr + offset, host.nbytes,
                                             self.runtime.memcpyDeviceToHost, self.stream.ptr)
                event = self._mark()
            event.synchronize()
        except RuntimeError as error:
            raise _translate(error) from error
        return host

    def view(self, buffer: Buffer, offset: int, dtype: np.dtype, count: int) -> Any:
        """The memory itself as a CuPy array. It is written on our stream: whoever reads it waits for that."""
        self.synchronize()
        return self.cupy.ndarray((count,), dtype, buffer.handle + offset)

    def copy(self, source: Buffer, source_offset: int, target: Buffer, target_offset: int, nbytes: int) -> None:
        self._enter()
        try:
            with self._lock:
                self.enqueue_copy(Binding(source, source_offset, nbytes), Binding(target, target_offset, nbytes),
                                  self.stream)
        except RuntimeError as error:
            raise _translate(error) from error

    def enqueue_copy(self, source: Binding, target: Binding, stream: Any) -> None:
        """A copy on the device. Called with the lock held."""
        self.runtime.memcpyAsync(target.buffer.handle.ptr + target.offset, source.buffer.handle.ptr + source.offset,
                                 target.nbytes, self.runtime.memcpyDeviceToDevice, stream.ptr)

    def memory(self) -> dict[str, int]:
        return {"in_use": self.in_use, "peak": self.peak, "pool": self.pool.free_bytes()}

    def trim(self) -> None:
        """Gives pooled memory back to the driver."""
        self._enter()
        self.pool.free_all_blocks()

    # ---- programs ----

    def build(self, spec: Spec) -> Any:
        self._enter()
        if self.vendor and (program := self._vendor_program(spec)):
            return program
        return self._own_program(spec)

    def _own_program(self, spec: Spec) -> _Program:
        source = inline_headers(cuda_source(spec, self.device))
        show(source, lambda: ptx(self._compiler.nvrtc, source, self._compiler.options_of(spec)))
        image = self._compiler.compile(spec, source)
        try:
            try:
                module = self.driver.moduleLoadData(image)
            except RuntimeError:  # whole, as its hash says, and yet not what this driver takes: perhaps another's
                module = self.driver.moduleLoadData(self._compiler.compile(spec, source, anew=True))
            function, shared = self.driver.moduleGetFunction(module, spec.kernel.name), dynamic_shared(source)
            if shared > _PLENTY_SHARED:
                self.driver.funcSetAttribute(function, _MAX_DYNAMIC_SHARED, shared)
                self.driver.funcSetAttribute(function, _CARVEOUT, 100)  # or the driver's guess may be one block's worth
            return _Program(self, spec, function, shared)
        except RuntimeError as error:
            raise _translate(error) from error

    def _vendor_program(self, spec: Spec) -> Matmul | Joined | None:
        """A library's program where it does the same as a kernel of ours."""
        if not (Matmul.takes(spec) or Joined.takes(spec)):
            return None
        self.cublas(self.stream)  # where it cannot be loaded, this says so
        if Matmul.takes(spec):
            return Matmul(self.cublas, self, spec)
        return Joined(self.cublas, lambda: self._own_program(spec), spec)

    def cublas(self, stream: Any) -> Cublas:
        """cuBLAS for one stream: products that run side by side must not share a workspace."""
        with self._lock:
            if stream not in self._cublas:
                self._cublas[stream] = Cublas(self.cupy, stream, self)
            return self._cublas[stream]

    def launch(self, program: Any, bindings: Sequence[Binding], params: bytes, groups: int) -> None:
        self._enter()
        with self._lock:
            try:
                if self._clock is None:
                    program.launch(bindings, params, groups, self.stream)
                else:
                    self._clock.time(lambda: program.launch(bindings, params, groups, self.stream))
            except RuntimeError as error:
                raise _translate(error) from error

    def freeze(self, launches: Sequence[Frozen]) -> Replay:
        """One CUDA graph of all launches, with a branch where they need not wait for one another."""
        self._enter()
        try:
            with self._lock:
                graph = Graph(self, launches) if launches else None
        except RuntimeError as error:
            found = _translate(error)
            raise type(found)(f"[cuda] {len(launches)} launches could not be recorded as a CUDA graph: {found} Run "
                              "the step without dm.capture, and tell us what it does.") from error

        def replay(outputs: Sequence[Binding] = ()) -> list[Buffer]:
            self._enter()
            try:
                with self._lock:
                    if graph is not None:
                        graph()
                    return self.copies(outputs)
            except RuntimeError as error:
                raise _translate(error) from error
        return replay

    def begin_timing(self) -> bool:
        self._clock = Clock(self.cupy, self.stream)
        return True

    def end_timing(self) -> list[float]:
        self._enter()
        clock, self._clock = self._clock, None
        try:
            return clock.seconds() if clock else []
        except RuntimeError as error:
            raise _translate(error) from error

    def synchronize(self) -> None:
        self._enter()
        try:
            with self._lock:
                event = self._mark()
            event.synchronize()
        except RuntimeError as error:
            raise _translate(error) from error


class _Program:
    """A loaded kernel and, made once, the memory that its arguments are passed in."""

    def __init__(self, backend: CudaBackend, spec: Spec, function: int, shared: int) -> None:
        count = len(spec.kernel.args)
        self.function, self.block, self.shared = function, spec.block, shared
        self.enqueue = backend.driver.launchKernel
        self.addresses = (ctypes.c_uint64 * count)()
        self.fields = ctypes.create_string_buffer(spec.struct.itemsize)
        each = [ctypes.addressof(self.addresses) + 8 * i for i in range(count)]
        self.pointers = (ctypes.c_void_p * (count + 1))(*each, ctypes.addressof(self.fields))
        self.arguments = ctypes.addressof(self.pointers)

    def prepare(self, params: bytes, stream: Any) -> None:
        """Nothing: all that a launch needs is its buffers."""

    def launch(self, bindings: Sequence[Binding], params: bytes, groups: int, stream: Any) -> None:
        for index, bound in enumerate(bindings):
            self.addresses[index] = bound.buffer.handle.ptr + bound.offset
        ctypes.memmove(self.fields, params, len(params))
        self.enqueue(self.function, groups, 1, 1, self.block, 1, 1, self.shared, stream.ptr, self.arguments, 0)


# ---- errors ---------------------------------------------------------------------------------------------------------

def _import_cupy() -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about what it does not find; what we need is checked below
            import cupy
    except Exception as error:  # CuPy raises what its libraries' loaders raise
        raise BackendError(f"[cuda] CuPy cannot be loaded: {error}. Install it with pip install 'dualml[cuda12]' or "
                           "'dualml[cuda13]', for the CUDA version that nvidia-smi names.") from error
    return cupy


def _translate(error: RuntimeError) -> BackendError:
    if isinstance(error, BackendError):
        return error
    status = getattr(error, "status", None)
    if status == _OUT_OF_MEMORY:
        return OutOfMemoryError(f"[cuda] out of memory: {error}. Use a smaller batch or model.")
    if status in _FATAL:
        return DeviceLostError(f"[cuda] {error}. Nothing more runs on the device in this process: start again from the "
                               "last checkpoint. DUALML_CHECK=1 finds the kernel that did it.")
    return BackendError(f"[cuda] {error}")
