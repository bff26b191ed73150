"""The cuda backend without a GPU: what it hands to CuPy, seen through a stand-in whose device memory is the host's."""

from __future__ import annotations

import ctypes
import itertools
import sys
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any
from unittest import mock

import ml_dtypes
import numpy as np
import pytest

from dualml import dtypes
from dualml.array import from_numpy, run
from dualml.backends import cuda
from dualml.dtypes import as_dtype
from dualml.errors import BackendError, DeviceLostError, KernelError, OutOfMemoryError
from dualml.kernel import make_kernel
from dualml.ops.matmul import gemm, matmul

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
    def __init__(self, disable_timing: bool) -> None:
        self.done, self.waited = False, False

    def record(self, stream: Any) -> None: ...

    def synchronize(self) -> None:
        self.waited = True


class Stream:
    ptr = 77

    def __init__(self, non_blocking: bool) -> None:
        assert non_blocking
        self.fails: CudaError | None = None
        self.current = False

    def __enter__(self) -> None:
        self.current = True

    def __exit__(self, *_: object) -> None:
        self.current = False

    def synchronize(self) -> None:
        if self.fails:
            raise self.fails


class Cublas:
    """gemmStridedBatchedEx in NumPy, in cuBLAS's own terms: columns `ld` elements apart."""

    def __init__(self, device: Device) -> None:
        self.device = device

    def create(self) -> int:
        return 5

    def setMathMode(self, handle: int, mode: int) -> None:
        assert (handle, mode) == (5, 16)

    def gemmStridedBatchedEx(self, handle: int, op_a: int, op_b: int, m: int, n: int, k: int, alpha: int,
                             a: int, type_a: int, lda: int, step_a: int, b: int, type_b: int, ldb: int, step_b: int,
                             beta: int, c: int, type_c: int, ldc: int, step_c: int, batch: int, compute: int,
                             algo: int) -> None:
        assert (handle, compute, type_a, type_b) == (5, 68, type_c, type_c)
        assert self.device.streams[0].current
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


class Device:
    """What dualml uses of `cupy`."""

    def __init__(self) -> None:
        self.launched: list[tuple[Any, ...]] = []
        self.attributes: list[tuple[int, int, int]] = []
        self.streams: list[Stream] = []
        self.room = 1 << 30
        self.compiled = 0
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
                                    alloc_pinned_memory=Memory, cublas=Cublas(self), get_cuda_path=lambda: None)

    def stream(self, non_blocking: bool) -> Stream:
        self.streams.append(Stream(non_blocking))
        return self.streams[-1]

    def properties(self, device: int) -> dict[str, Any]:
        return {"major": 9, "minor": 0, "name": b"Stand-in", "multiProcessorCount": 132, "sharedMemPerBlockOptin": 1}

    def malloc(self, nbytes: int) -> Memory:
        if nbytes > self.room:
            raise PoolError
        return Memory(nbytes)

    def copy(self, to: int, source: int, nbytes: int, kind: int, stream: int) -> None:
        assert stream == Stream.ptr
        ctypes.memmove(to, source, nbytes)

    def fill(self, to: int, value: int, nbytes: int, stream: int) -> None:
        ctypes.memset(to, value, nbytes)

    def compile(self, source: str, options: tuple[str, ...]) -> None:
        self.compiled += 1
        assert "--gpu-architecture=sm_90a" in options
        if "nonsense" in source:
            raise CudaError(6, "NVRTC_ERROR_COMPILATION")

    def launch(self, function: str, *numbers: int) -> None:
        self.launched.append((function, *numbers))


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> Iterator[Device]:
    stand_in = Device()
    monkeypatch.setitem(sys.modules, "cupy", stand_in)
    monkeypatch.setattr(cuda, "_header_folders", lambda cupy: [tmp_path])
    monkeypatch.setenv("DUALML_CACHE", str(tmp_path))
    monkeypatch.setattr(matmul, "specs", {})  # programs of a stand-in must not outlive it
    return stand_in


def probe(body: str = "out[0] = 0;", name: str = "probe") -> Any:
    return make_kernel(len, "x[N] -> out[N] | scale", name=name, groups="cdiv(N, BLOCK)", block=64,
                       texts={"cu": f"KERNEL {{ {body} }}"})


def test_device_and_memory(device: Device) -> None:
    backend = cuda.CudaBackend()
    assert (backend.device.name, backend.device.driver, backend.device.arch) == ("Stand-in", "CUDA 13.2", 90)
    x = np.arange(24, dtype=np.float32)
    a = from_numpy(x.reshape(4, 6), backend=backend)
    b = from_numpy(np.zeros(24, np.float32), backend=backend)
    x[:] = 0  # the caller may change what it handed over
    b.copy_from(a.reshape(24))
    assert np.array_equal(b.numpy(), np.arange(24, dtype=np.float32))
    assert backend.memory() == {"in_use": 192, "peak": 192, "pool": 9}
    del a, b
    assert backend.memory()["in_use"] == 0


def test_writes_under_way_hold_a_bounded_amount_of_memory(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "_STAGING", 1000)
    backend = cuda.CudaBackend()
    arrays = [from_numpy(np.zeros(100, np.float32), backend=backend) for _ in range(3)]
    assert len(backend._staged) == 2
    backend._staged[0][0].done = True
    arrays.append(from_numpy(np.zeros(1, np.float32), backend=backend))
    assert [held for *_, held in backend._staged] == [400, 4]


def test_launch(device: Device) -> None:
    backend = cuda.CudaBackend()
    arena = from_numpy(np.zeros(300, np.float32), backend=backend)
    out = run(probe(), arena.slot(64, (200,)), scale=0.5)
    function, *grid, shared, stream, pointers, extra = device.launched[0]
    assert (function, grid, shared, stream, extra) == ("probe", [4, 1, 1, 64, 1, 1], 0, 77, 0)
    x, y, params = at(pointers, np.dtype(np.uint64), 3).tolist()
    assert at(x, np.dtype(np.uint64), 1)[0] == arena.buffer.handle.ptr + 256
    assert at(y, np.dtype(np.uint64), 1)[0] == out.buffer.handle.ptr
    struct = np.dtype([("N", np.uint32), ("scale", np.float32), ("groups", np.uint32)])
    assert at(params, struct, 1)[0].item() == (200, 0.5, 4)


def test_kernels_are_compiled_once_for_all_processes(device: Device) -> None:
    x = np.zeros(3, np.float32)
    for _ in range(2):
        backend = cuda.CudaBackend()
        run(probe(), from_numpy(x, backend=backend), scale=1.0)
    assert device.compiled == 1
    run(probe("out[0] = 1;"), from_numpy(x, backend=backend), scale=1.0)
    assert device.compiled == 2


def test_a_source_that_does_not_compile(device: Device) -> None:
    x = from_numpy(np.zeros(3, np.float32), backend=cuda.CudaBackend())
    with pytest.raises(KernelError, match=r"\[probe\] cuda/probe.cu does not compile for sm_90a: NVRTC[\s\S]*the log"):
        run(probe("nonsense"), x, scale=1.0)


def test_dynamic_shared_memory(device: Device) -> None:
    kernel = probe()
    kernel.texts["cu"] = "DYNAMIC_SHARED({{ 1000 * BLOCK }})\n" + kernel.texts["cu"]
    run(kernel, from_numpy(np.zeros(3, np.float32), backend=cuda.CudaBackend()), scale=1.0)
    assert device.attributes == [("probe", 8, 64000)]
    assert device.launched[0][7] == 64000
    with pytest.raises(KernelError, match="must get a number"):
        cuda.dynamic_shared("\nDYNAMIC_SHARED(BLOCK)")


def test_errors_are_told_apart(device: Device) -> None:
    backend = cuda.CudaBackend()
    device.room = 1000
    with pytest.raises(OutOfMemoryError, match=r"\[alloc\] Stand-in has no 0.0 MiB left"):
        backend.alloc(2000)
    for status, kind, message in ((700, DeviceLostError, "start again from the last checkpoint"),
                                  (2, OutOfMemoryError, "out of memory"), (1, BackendError, "cudaErrorOfSomeKind")):
        device.streams[0].fails = CudaError(status)
        with pytest.raises(kind, match=message):
            backend.synchronize()


def test_no_device(device: Device) -> None:
    def fails() -> int:
        raise CudaError(35, "cudaErrorInsufficientDriver")

    device.cuda.runtime.getDevice = fails
    with pytest.raises(BackendError, match=r"\[cuda\] no CUDA device answers: cudaErrorInsufficientDriver"):
        cuda.CudaBackend()


def test_no_cupy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(BackendError, match=r"CuPy cannot be loaded: .* pip install 'dualml\[cuda12\]'"):
        cuda.CudaBackend()


def test_headers(tmp_path: Any) -> None:
    def folders() -> list[Any]:
        cuda_module = SimpleNamespace(get_cuda_path=lambda: str(tmp_path))
        return cuda._header_folders(SimpleNamespace(__file__=str(tmp_path / "cupy.py"), cuda=cuda_module))

    with mock.patch.object(cuda.importlib, "import_module", side_effect=ImportError):
        with pytest.raises(BackendError, match=r"cuda_bf16.h .* is missing"):
            folders()
        (tmp_path / "include" / "cccl").mkdir(parents=True)
        (tmp_path / "include" / "cuda_bf16.h").touch()
        assert folders() == [tmp_path / "include", tmp_path / "include" / "cccl"]


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_cublas_in_place_of_matmul(device: Device, dtype: str) -> None:
    backend, rng, host = cuda.CudaBackend(), np.random.default_rng(0), as_dtype(dtype).host
    both, batches = (False, True), ((1, 1), (3, 3), (1, 3), (3, 1))
    for ta, tb, (ba, bb), has_bias, k in itertools.product(both, both, batches, both, (7, 0)):
        a = rng.standard_normal((ba, k, 5) if ta else (ba, 5, k)).astype(host)
        b = rng.standard_normal((bb, 6, k) if tb else (bb, k, 6)).astype(host)
        bias = rng.standard_normal(6).astype(host)
        arrays = [from_numpy(x, backend=backend) for x in (a, b, bias)]
        out = gemm(*arrays[:2], ta=ta, tb=tb, bias=arrays[2] if has_bias else None)
        wide = [x.astype(np.float32) for x in (a, b, bias)]
        expected = (wide[0].swapaxes(1, 2) if ta else wide[0]) @ (wide[1].swapaxes(1, 2) if tb else wide[1])
        expected = (expected + wide[2] if has_bias else expected).astype(host).astype(np.float32)
        assert np.allclose(out.numpy().astype(np.float32), expected, 1e-2 if dtype != "float32" else 1e-5, 1e-5)
    assert not device.launched


def test_hand_written_matmul_on_demand(device: Device) -> None:
    class HandWritten(cuda.CudaBackend):
        name = "cuda_handwritten"
        vendor = False

    backend = HandWritten()
    x = from_numpy(np.zeros((1, 4, 4), np.float32), backend=backend)
    gemm(x, x)
    assert device.launched[0][0] == "matmul"
    assert dtypes.float64 not in backend.dtypes
