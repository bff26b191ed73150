"""A stand-in for CuPy whose device memory is the host's: cuBLAS and copies work, kernels are only noted down."""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from dualml.backends import cublas, cuda
from dualml.kernel import make_kernel
from dualml.ops.matmul import matmul

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
    """Device memory, or pinned: a stretch of the host's."""

    def __init__(self, nbytes: int) -> None:
        self.bytes = np.full(nbytes, 0xff, np.uint8)
        self.ptr = self.bytes.ctypes.data


class Event:
    clock = 0

    def __init__(self, disable_timing: bool = False) -> None:
        self.done, self.waited, self.timed, self.at = False, False, not disable_timing, 0

    def record(self, stream: Any) -> None:
        Event.clock += 3 if self.timed else 0
        self.at = Event.clock

    def synchronize(self) -> None:
        self.waited = True


class Graph:
    """What a stream was told while it was being captured."""

    def __init__(self, work: list[Any]) -> None:
        self.work = work

    def launch(self, stream: Stream) -> None:
        assert stream.captured is None
        for one in self.work:
            one()


class Stream:
    ptr = 77

    def __init__(self, non_blocking: bool) -> None:
        assert non_blocking
        self.fails: CudaError | None = None
        self.captured: list[Any] | None = None
        self.spoilt = False
        self.log: list[str] = []

    def do(self, work: Any) -> None:
        """Work in order: now, or when the graph that is being recorded runs."""
        (self.captured.append if self.captured is not None else lambda one: one())(work)

    def begin_capture(self) -> None:
        assert self.captured is None
        self.log.append("begin")
        self.captured, self.spoilt = [], False

    def end_capture(self) -> Graph:
        assert self.captured is not None
        self.log.append("end")
        work, self.captured = self.captured, None
        if self.spoilt:
            raise CudaError(901, "cudaErrorStreamCaptureInvalidated")
        return Graph(work)

    def not_while_recording(self, what: str) -> None:
        """Allocations and waits spoil a capture."""
        if self.captured is not None:
            self.spoilt = True
            raise CudaError(900, f"cudaErrorStreamCaptureUnsupported: {what}")

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
        assert self.cublas.calls == ["stream", "workspace"]
        self.cublas.device.streams[0].do(lambda: self.multiply(*given))
        return self.cublas.status

    def multiply(self, handle: int, op_a: int, op_b: int, m: int, n: int, k: int, alpha: int,
                             a: int, type_a: int, lda: int, step_a: int, b: int, type_b: int, ldb: int, step_b: int,
                             beta: int, c: int, type_c: int, ldc: int, step_c: int, batch: int, compute: int,
                             algo: int) -> None:
        assert (handle, compute, type_a, type_b) == (5, 68, type_c, type_c)
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
    """cupy.cuda.cublas, and the library itself, which answers with a status."""

    def __init__(self, device: Device) -> None:
        self.device, self.calls, self.status = device, [], 0  # type: tuple[Device, list[str], int]
        self.cublasGemmStridedBatchedEx = Gemm(self)

    def create(self) -> int:
        return 5

    def getVersion(self, handle: int) -> int:
        return 130100

    def setMathMode(self, handle: int, mode: int) -> None:
        assert (handle, mode) == (5, 16)

    def cublasSetStream_v2(self, handle: Any, stream: Any) -> int:
        assert (handle.value, stream.value) == (5, Stream.ptr)
        self.calls.append("stream")
        return 0

    def cublasSetWorkspace_v2(self, handle: Any, address: Any, nbytes: Any) -> int:
        assert address.value in [m.ptr for m in self.device.memory]
        assert nbytes.value == 32 << 20
        self.calls.append("workspace")
        return 0


class Device:
    """What dualml uses of `cupy`."""

    def __init__(self) -> None:
        self.launched: list[tuple[Any, ...]] = []
        self.attributes: list[tuple[int, int, int]] = []
        self.streams: list[Stream] = []
        self.room = 1 << 30
        self.compiled = 0
        self.memory: list[Memory] = []
        self.refused: CudaError | None = None
        self.__file__ = "/nowhere/cupy/__init__.py"
        nvrtc = SimpleNamespace(
            NVRTCError=CudaError, getVersion=lambda: (13, 0), getSupportedArchs=lambda: (75, 80, 90),
            createProgram=lambda source, name, headers, names: source, compileProgram=self.compile,
            getCUBIN=lambda program: program.encode(), getPTX=lambda program: b"ptx",
            getProgramLog=lambda program: "the log", destroyProgram=lambda program: None)
        driver = SimpleNamespace(
            moduleLoadData=lambda image: len(image), moduleGetFunction=lambda module, name: name,
            funcSetAttribute=lambda *args: self.attributes.append(args), launchKernel=self.launch,
            CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES=8)
        runtime = SimpleNamespace(
            getDevice=lambda: 0, getDeviceProperties=self.properties, memGetInfo=lambda: (1, 2),
            driverGetVersion=lambda: 13020, memcpyAsync=self.copy, memsetAsync=self.fill,
            memcpyHostToDevice=1, memcpyDeviceToHost=2, memcpyDeviceToDevice=3)
        pool = SimpleNamespace(malloc=self.malloc, free_bytes=lambda: 9, free_all_blocks=lambda: None)
        self.cuda = SimpleNamespace(nvrtc=nvrtc, driver=driver, runtime=runtime, Stream=self.stream, Event=Event,
                                    MemoryPool=lambda: pool, memory=SimpleNamespace(OutOfMemoryError=PoolError),
                                    alloc_pinned_memory=self.pinned, cublas=Cublas(self), get_cuda_path=lambda: None,
                                    get_elapsed_time=lambda begin, end: end.at - begin.at)

    def stream(self, non_blocking: bool) -> Stream:
        self.streams.append(Stream(non_blocking))
        return self.streams[-1]

    def properties(self, device: int) -> dict[str, Any]:
        return {"major": 9, "minor": 0, "name": b"Stand-in", "multiProcessorCount": 132, "sharedMemPerBlockOptin": 1}

    def malloc(self, nbytes: int) -> Memory:
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
        assert stream == Stream.ptr
        self.streams[-1].do(lambda: ctypes.memmove(to, source, nbytes))

    def fill(self, to: int, value: int, nbytes: int, stream: int) -> None:
        self.streams[-1].do(lambda: ctypes.memset(to, value, nbytes))

    def compile(self, source: str, options: tuple[str, ...]) -> None:
        self.compiled += 1
        assert "--gpu-architecture=sm_90a" in options
        if "nonsense" in source:
            raise CudaError(6, "NVRTC_ERROR_COMPILATION")

    def launch(self, function: str, *numbers: int) -> None:
        if self.refused:
            raise self.refused
        self.streams[-1].do(lambda: self.launched.append((function, *numbers)))


def put_in_place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Device:
    """Makes `import cupy` find a stand-in, for one test."""
    stand_in = Device()
    monkeypatch.setitem(sys.modules, "cupy", stand_in)
    monkeypatch.setattr(cuda, "_header_folders", lambda cupy: [tmp_path])
    monkeypatch.setattr(cublas, "_library", lambda version: stand_in.cuda.cublas)
    monkeypatch.setenv("DUALML_CACHE", str(tmp_path))
    monkeypatch.setattr(matmul, "specs", {})  # programs of a stand-in must not outlive it
    return stand_in


def probe(body: str = "out[0] = 0;", name: str = "probe") -> Any:
    return make_kernel(len, "x[N] -> out[N] | scale", name=name, groups="cdiv(N, BLOCK)", block=64,
                       texts={"cu": f"KERNEL {{ {body} }}"})
