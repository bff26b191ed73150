"""A stand-in for CuPy whose device memory is the host's: cuBLAS and copies work, kernels are only noted down.

What is captured is a graph of nodes with edges, as CUDA makes it from streams and events; each launch of one runs its
nodes in another random order that the edges allow.
"""

from __future__ import annotations

import ctypes
import random
import sys
import threading
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from dualml.backends import cublas, nvrtc
from dualml.kernel import make_kernel

CUBLAS_TYPES = {0: np.dtype(np.float32), 2: np.dtype(np.float16), 14: np.dtype(ml_dtypes.bfloat16)}


class CudaError(RuntimeError):
    def __init__(self, status: int, text: str = "cudaErrorOfSomeKind") -> None:
        super().__init__(text)
        self.status = status


class PoolError(MemoryError):
    pass


def at(address: int, dtype: np.dtype, count: int) -> np.ndarray:
    return np.frombuffer((ctypes.c_uint8 * (count * dtype.itemsize)).from_address(address), dtype)


class Memory:
    """Device memory, or pinned: a stretch of the host's, on 256 bytes as CUDA's are."""

    def __init__(self, nbytes: int) -> None:
        room = np.full(nbytes + 256, 0xff, np.uint8)
        self.bytes = room[-room.ctypes.data % 256:][:nbytes]
        self.ptr = self.bytes.ctypes.data


class Capture:
    """What streams were told since one of them began: nodes with those that they come after."""

    def __init__(self, origin: Stream) -> None:
        self.origin, self.streams, self.spoilt = origin, [origin], False
        self.work: list[Any] = []
        self.after: list[frozenset[int]] = []

    def reached(self, nodes: Iterable[int]) -> set[int]:
        """The nodes and all that they come after."""
        found, new = set(), set(nodes)
        while new:
            found |= new
            new = {m for n in new for m in self.after[n]} - found
        return found

    def spoil(self, status: int, text: str) -> CudaError:
        self.spoilt = True
        return CudaError(status, text)


class Event:
    clock = 0

    def __init__(self, disable_timing: bool = False) -> None:
        self.done, self.waited, self.timed, self.at = False, False, not disable_timing, 0
        self.capture: Capture | None = None
        self.nodes: frozenset[int] = frozenset()
        self.stream: Stream | None = None

    def record(self, stream: Stream) -> None:
        stream.device.entered()
        self.stream = stream
        Event.clock += 3 if self.timed else 0
        self.at = Event.clock
        self.capture, self.nodes = stream.capture, frozenset(stream.tail)

    def synchronize(self) -> None:
        if self.capture is not None:
            raise self.capture.spoil(907, "cudaErrorCapturedEvent: a wait")
        self.waited = True
        if self.stream and self.stream.fails:
            raise self.stream.fails


class Graph:
    """A graph that may be launched. `order` chooses among the nodes that may run next."""

    order = random.Random(0)

    def __init__(self, capture: Capture) -> None:
        self.work, self.after = capture.work, capture.after
        self.runs: list[list[int]] = []  # in which order each launch ran its nodes

    def launch(self, stream: Stream) -> None:
        assert stream.capture is None
        self.runs.append([])
        left = dict(enumerate(map(set, self.after)))
        while left:
            node = self.order.choice([n for n, waits in left.items() if not waits])
            self.work[node]()
            self.runs[-1].append(node)
            del left[node]
            for waits in left.values():
                waits.discard(node)


class Stream:
    def __init__(self, device: Device, non_blocking: bool) -> None:
        assert non_blocking
        self.device, self.ptr = device, 77 + len(device.streams)
        self.fails: CudaError | None = None
        self.capture: Capture | None = None
        self.tail: set[int] = set()  # nodes that the next one comes after
        self.log: list[str] = []

    def do(self, work: Any) -> None:
        """Now, or when the graph that is being recorded runs."""
        self.device.entered()
        if self.capture is None:  # CUDA would run it now, in the middle of the recording: never meant
            self.device.not_while_recording("work on a stream that is not recorded")
            work()
            return
        self.capture.work.append(work)
        self.capture.after.append(frozenset(self.tail))
        self.tail = {len(self.capture.work) - 1}

    def wait_event(self, event: Event) -> None:
        if self.capture is not None and self.capture is not event.capture:
            raise self.capture.spoil(905, "cudaErrorStreamCaptureIsolation")
        if event.capture is None:
            return
        if event.capture.origin.capture is not event.capture:
            raise CudaError(907, "cudaErrorCapturedEvent: its capture has ended")
        if self.capture is None:
            self.capture = event.capture
            self.capture.streams.append(self)
        self.tail |= event.nodes

    def begin_capture(self) -> None:
        assert self.capture is None
        self.log.append("begin")
        self.capture, self.tail = Capture(self), set()

    def end_capture(self) -> Graph:
        capture = self.capture
        if capture is None or capture.origin is not self:
            raise CudaError(903, "cudaErrorStreamCaptureUnmatched")
        self.log.append("end")
        joined = capture.reached(self.tail) >= set(range(len(capture.work)))
        for stream in capture.streams:
            stream.capture, stream.tail = None, set()
        if capture.spoilt:
            raise CudaError(901, "cudaErrorStreamCaptureInvalidated")
        if not joined:
            raise CudaError(904, "cudaErrorStreamCaptureUnjoined")
        self.device.graphs.append(Graph(capture))
        return self.device.graphs[-1]

    def not_while_recording(self, what: str) -> None:
        """Allocations and waits spoil a capture."""
        if self.capture is not None:
            raise self.capture.spoil(900, f"cudaErrorStreamCaptureUnsupported: {what}")

    def synchronize(self) -> None:
        self.not_while_recording("a wait")
        if self.fails:
            raise self.fails


class Gemm:
    """cublasGemmStridedBatchedEx in NumPy, in cuBLAS's own terms: columns `ld` elements apart."""

    argtypes: tuple[Any, ...] = ()

    def __init__(self, cublas: Cublas) -> None:
        self.cublas = cublas

    def __call__(self, *given: Any) -> int:
        assert len(given) == len(self.argtypes) == 23
        assert self.cublas.calls[given[0]] == ["stream", "workspace"]
        self.cublas.device.on(self.cublas.streams[given[0]]).do(lambda: self.multiply(*given))
        return self.cublas.status

    def multiply(self, handle: int, op_a: int, op_b: int, m: int, n: int, k: int, alpha: int,
                             a: int, type_a: int, lda: int, step_a: int, b: int, type_b: int, ldb: int, step_b: int,
                             beta: int, c: int, type_c: int, ldc: int, step_c: int, batch: int, compute: int,
                             algo: int) -> None:
        assert (compute, type_a, type_b) == (68, type_c, type_c)
        assert min(m, n, k, lda, ldb, ldc) > 0
        for i in range(batch):
            x, y = (self.matrix(p + i * step * CUBLAS_TYPES[kind].itemsize, kind, ld, *size)
                    for p, kind, ld, step, size in ((a, type_a, lda, step_a, (k, m) if op_a else (m, k)),
                                                    (b, type_b, ldb, step_b, (n, k) if op_b else (k, n))))
            out = self.matrix(c + i * step_c * CUBLAS_TYPES[type_c].itemsize, type_c, ldc, m, n)
            x, y = (x.T if op_a else x).astype(np.float32), (y.T if op_b else y).astype(np.float32)
            factors = [at(p, np.dtype(np.float32), 1)[0] for p in (alpha, beta)]
            old = out.astype(np.float32) * factors[1] if factors[1] else 0
            out[...] = (factors[0] * (x @ y) + old).astype(out.dtype)

    @staticmethod
    def matrix(address: int, kind: int, ld: int, rows: int, columns: int) -> np.ndarray:
        assert ld >= rows
        flat = at(address, CUBLAS_TYPES[kind], ld * (columns - 1) + rows)
        return np.lib.stride_tricks.as_strided(flat, (rows, columns), (flat.itemsize, ld * flat.itemsize))


class Cublas:
    """cupy.cuda.cublas, and the library itself, which answers with a status. Handles are 5, 6 and so on."""

    def __init__(self, device: Device) -> None:
        self.device, self.status = device, 0
        self.calls: dict[int, list[str]] = {}
        self.streams: dict[int, int] = {}
        self.workspaces: dict[int, int] = {}
        self.cublasGemmStridedBatchedEx = Gemm(self)

    def create(self) -> int:
        self.device.not_while_recording("a handle of cuBLAS")
        self.calls[5 + len(self.calls)] = []
        return 4 + len(self.calls)

    def getVersion(self, handle: int) -> int:
        return 130100

    def setMathMode(self, handle: int, mode: int) -> None:
        assert handle in self.calls
        assert mode == 16

    def cublasSetStream_v2(self, handle: Any, stream: Any) -> int:
        self.calls[handle.value].append("stream")
        self.streams[handle.value] = stream.value
        return 0

    def cublasSetWorkspace_v2(self, handle: Any, address: Any, nbytes: Any) -> int:
        assert address.value in [m.ptr for m in self.device.memory]
        assert nbytes.value == 32 << 20
        assert address.value not in self.workspaces.values(), "products of two streams in one workspace"
        self.calls[handle.value].append("workspace")
        self.workspaces[handle.value] = address.value
        return 0


class Device:
    """What dualml uses of `cupy`."""

    def __init__(self) -> None:
        self.launched: list[tuple[Any, ...]] = []
        self.attributes: list[tuple[int, int, int]] = []
        self.streams: list[Stream] = []
        self.graphs: list[Graph] = []
        self.room = 1 << 30
        self.compiled, self.options = 0, tuple[str, ...]()
        self.loaded, self.broken = list[bytes](), list[bytes]()  # images; those that the driver does not take
        self.chosen, self.chosen_by = threading.local(), list[int]()  # by threads
        self.memory: list[Memory] = []
        self.refused: CudaError | None = None
        self.__file__ = "/nowhere/cupy/__init__.py"
        nvrtc = SimpleNamespace(
            NVRTCError=CudaError, getVersion=lambda: (13, 0), getSupportedArchs=lambda: (75, 80, 90),
            createProgram=lambda source, name, headers, names: source, compileProgram=self.compile,
            getCUBIN=lambda program: program.encode(), getPTX=lambda program: b"ptx",
            getProgramLog=lambda program: "the log", destroyProgram=lambda program: None)
        driver = SimpleNamespace(
            moduleLoadData=self.load, moduleGetFunction=lambda module, name: name,
            funcSetAttribute=lambda *args: self.attributes.append(args), launchKernel=self.launch)
        runtime = SimpleNamespace(
            getDevice=lambda: 3, setDevice=self.choose, getDeviceProperties=self.properties, memGetInfo=lambda: (1, 2),
            driverGetVersion=lambda: 13020, memcpyAsync=self.copy, memsetAsync=self.fill,
            memcpyHostToDevice=1, memcpyDeviceToHost=2, memcpyDeviceToDevice=3)
        pool = SimpleNamespace(malloc=self.malloc, free_bytes=lambda: 9, free_all_blocks=lambda: None)
        self.cuda = SimpleNamespace(nvrtc=nvrtc, driver=driver, runtime=runtime, Stream=self.stream, Event=Event,
                                    MemoryPool=lambda: pool, memory=SimpleNamespace(OutOfMemoryError=PoolError),
                                    alloc_pinned_memory=self.pinned, cublas=Cublas(self), get_cuda_path=lambda: None,
                                    get_elapsed_time=lambda begin, end: end.at - begin.at)

    def choose(self, number: int) -> None:
        assert number == 3
        self.chosen.device = number
        self.chosen_by.append(threading.get_ident())

    def entered(self) -> None:
        """What the driver does in threads that have not chosen a device."""
        if not hasattr(self.chosen, "device"):
            raise CudaError(201, "CUDA_ERROR_INVALID_CONTEXT: invalid device context")

    def load(self, image: bytes) -> int:
        self.entered()
        if image in self.broken:
            raise CudaError(200, "CUDA_ERROR_INVALID_IMAGE: device kernel image is invalid")
        self.loaded.append(image)
        return len(self.loaded)

    def stream(self, non_blocking: bool) -> Stream:
        self.not_while_recording("a stream")
        self.streams.append(Stream(self, non_blocking))
        return self.streams[-1]

    def on(self, ptr: int) -> Stream:
        return next(stream for stream in self.streams if stream.ptr == ptr)

    def properties(self, device: int) -> dict[str, Any]:
        return {"major": 9, "minor": 0, "name": b"Stand-in", "multiProcessorCount": 132, "sharedMemPerBlockOptin": 1}

    def malloc(self, nbytes: int) -> Memory:
        self.entered()
        if nbytes > self.room:
            raise PoolError
        self.not_while_recording("memory")
        self.memory.append(Memory(nbytes))
        return self.memory[-1]

    def pinned(self, nbytes: int) -> Memory:
        self.not_while_recording("pinned memory")
        return Memory(nbytes)

    def not_while_recording(self, what: str) -> None:
        for stream in self.streams:
            stream.not_while_recording(what)

    def copy(self, to: int, source: int, nbytes: int, kind: int, stream: int) -> None:
        self.on(stream).do(lambda: ctypes.memmove(to, source, nbytes))

    def fill(self, to: int, value: int, nbytes: int, stream: int) -> None:
        self.on(stream).do(lambda: ctypes.memset(to, value, nbytes))

    def compile(self, source: str, options: tuple[str, ...]) -> None:
        self.compiled += 1
        self.options = options
        assert "--gpu-architecture=sm_90a" in options
        if "nonsense" in source:
            raise CudaError(6, "NVRTC_ERROR_COMPILATION")

    def launch(self, function: str, *numbers: int) -> None:
        self.entered()
        if self.refused:
            raise self.refused
        self.on(numbers[7]).do(lambda: self.launched.append((function, *numbers)))


def put_in_place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Device:
    """Makes `import cupy` find a stand-in, for one test."""
    stand_in = Device()
    monkeypatch.setitem(sys.modules, "cupy", stand_in)
    monkeypatch.setattr(nvrtc, "_header_folders", lambda cupy: [tmp_path])
    monkeypatch.setattr(cublas, "_library", lambda name, version: stand_in.cuda.cublas)
    monkeypatch.setenv("DUALML_CACHE", str(tmp_path))
    return stand_in


def probe(body: str = "out[0] = 0;", name: str = "probe") -> Any:
    return make_kernel(len, "x[N] -> out[N] | scale", name=name, groups="cdiv(N, BLOCK)", block=64,
                       texts={"cu": f"KERNEL {{ {body} }}"})
