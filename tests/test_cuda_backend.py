"""The cuda backend without a GPU: what it hands to CuPy, seen through a stand-in whose device memory is the host's."""

from __future__ import annotations

import gc
import itertools
import math
import sys
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import pytest

from dualml import dtypes, runtime
from dualml.array import from_numpy, run
from dualml.backends import cuda, nvrtc
from dualml.backends.base import Binding, Frozen
from dualml.dtypes import as_dtype
from dualml.errors import BackendError, DeviceLostError, KernelError, OutOfMemoryError
from dualml.ops.matmul import gemm
from dualml.tensor import Tensor
from tests.cupy_stand_in import CudaError, Device, at, probe, put_in_place


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Device:
    return put_in_place(monkeypatch, tmp_path)


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


def test_dlpack_names_the_device_that_the_memory_is_on(device: Device) -> None:
    arrays = [from_numpy(np.zeros(2, np.float32), backend=b) for b in (cuda.CudaBackend(), runtime.get("cpu"))]
    assert [Tensor(a).__dlpack_device__() for a in arrays] == [(2, 3), (1, 0)]


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


def kept(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "cuda").iterdir())


@pytest.mark.parametrize("spoil", ["cut", "changed", "emptied", "unreadable"])
def test_a_kept_kernel_that_is_broken_is_made_again(device: Device, tmp_path: Path, spoil: str) -> None:
    def use() -> None:
        run(probe(), from_numpy(np.zeros(3, np.float32), backend=cuda.CudaBackend()), scale=1.0)

    use()
    path, = kept(tmp_path)
    whole = path.read_bytes()
    if spoil == "unreadable":
        path.unlink()
        path.mkdir()
    else:
        path.write_bytes({"cut": whole[:-5], "changed": b"?" + whole[1:], "emptied": b""}[spoil])
    use()
    assert device.compiled == 2
    assert device.loaded[0] == device.loaded[1]
    assert kept(tmp_path) == [path]  # nothing unfinished stays, even where it cannot be put in place
    if spoil != "unreadable":
        assert path.read_bytes() == whole


def test_a_kept_kernel_that_the_driver_refuses_is_made_again_once(device: Device, tmp_path: Path) -> None:
    x = np.zeros(3, np.float32)
    run(probe(), from_numpy(x, backend=cuda.CudaBackend()), scale=1.0)
    path, = kept(tmp_path)
    nvrtc._keep(path, b"an image of another driver's")
    device.broken.append(b"an image of another driver's")
    run(probe(), from_numpy(x, backend=cuda.CudaBackend()), scale=1.0)
    assert device.compiled == 2
    run(probe(), from_numpy(x, backend=cuda.CudaBackend()), scale=1.0)
    assert device.compiled == 2
    device.broken.append(device.loaded[0])
    with pytest.raises(BackendError, match="CUDA_ERROR_INVALID_IMAGE"):
        run(probe(), from_numpy(x, backend=cuda.CudaBackend()), scale=1.0)
    assert device.compiled == 3


def test_a_cache_that_cannot_be_written(device: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(nvrtc.os, "replace", full)
    run(probe(), from_numpy(np.zeros(3, np.float32), backend=cuda.CudaBackend()), scale=1.0)
    assert len(device.launched) == 1
    assert kept(tmp_path) == []


def test_rounding_is_part_of_what_a_kernel_is_kept_by(device: Device, tmp_path: Path,
                                                      monkeypatch: pytest.MonkeyPatch) -> None:
    x = np.zeros(3, np.float32)
    for option in ("--fmad=false", "--fmad=true"):
        monkeypatch.setattr(nvrtc, "rounding", lambda spec, option=option: option)
        run(probe(), from_numpy(x, backend=cuda.CudaBackend()), scale=1.0)
        assert device.options[-1] == option
    assert device.compiled == len(kept(tmp_path)) == 2


def test_all_that_decides_an_image_decides_what_it_is_kept_by(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Device, compiler, options and source, whichever of them change: an image is never taken for another."""
    monkeypatch.setenv("DUALML_CACHE", str(tmp_path))
    made: list[bytes] = []

    def compiled(arch: int, version: tuple[int, int], headers: str, kernel: str, source: str) -> tuple[bytes, bytes]:
        def make(program: str, options: tuple[str, ...]) -> None:
            made.append(f"{version} {options} {program}".encode())

        library = SimpleNamespace(NVRTCError=CudaError, getVersion=lambda: version, getSupportedArchs=lambda: (80, 90),
                                  createProgram=lambda source, *_: source, compileProgram=make,
                                  getCUBIN=lambda program: made[-1], destroyProgram=lambda program: None)
        compiler = nvrtc.Compiler(library, [Path(headers)], arch)
        spec: Any = SimpleNamespace(kernel=SimpleNamespace(name="one", source=kernel), stem=kernel)
        return compiler.compile(spec, source), f"{version} {compiler.options_of(spec)} {source}".encode()

    settings = [(80, 90), ((12, 9), (13, 0), (13, 9)), ("/cuda/12", "/cuda/13"), ("matmul", "softmax"), ("x", "y")]
    for _ in range(2):
        for choice in itertools.product(*settings):
            image, right = compiled(*choice)
            assert image == right
    assert len(made) == len(set(made)) == math.prod(map(len, settings))


# ---- threads --------------------------------------------------------------------------------------------------------

def in_a_thread(work: Any) -> Any:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(work).result()


def test_each_thread_chooses_the_device_once(device: Device) -> None:
    """The driver has no device in a thread that has not chosen one: whatever comes first there must do it."""
    backend = cuda.CudaBackend()
    a = from_numpy(np.arange(8, dtype=np.float32), backend=backend)
    b = from_numpy(np.zeros(8, np.float32), backend=backend)
    kernel = probe()
    out = run(kernel, a, scale=1.0)
    (spec, program, _), = kernel.made["cuda"].specs.values()
    launch = Frozen(program, [Binding(x.buffer, 0, 32) for x in (a, out)], bytes(12), 1)
    replay = backend.freeze([launch])
    firsts = [
        lambda: backend.alloc(4), lambda: backend.write(a.buffer, 0, np.ones(8, np.float32)),
        lambda: backend.read(a.buffer, 0, np.dtype(np.float32), 8), lambda: b.copy_from(a),
        lambda: backend.launch(program, launch.bindings, bytes(12), 1), lambda: backend.build(spec),
        lambda: backend.freeze([launch]), lambda: replay([Binding(a.buffer, 0, 32)]), backend.synchronize]
    for first in firsts:
        before = len(device.chosen_by)

        def twice(first: Any = first) -> None:
            first()
            first()
            backend.synchronize()
        in_a_thread(twice)
        assert len(device.chosen_by) == before + 1


def test_a_wait_while_another_thread_records_a_graph(device: Device) -> None:
    """A stream that is recorded must not be waited for; what it was told before may."""
    backend = cuda.CudaBackend()
    a = from_numpy(np.arange(8, dtype=np.float32), backend=backend)
    recording, waited = threading.Event(), threading.Event()

    class Slow:
        def prepare(self, *_: Any) -> None: ...

        def launch(self, bindings: Any, params: bytes, groups: int, stream: Any) -> None:
            recording.set()
            assert not waited.wait(0.2)  # the reader must come after the recording
            stream.do(lambda: None)

    with ThreadPoolExecutor(1) as pool:
        frozen = pool.submit(backend.freeze, [Frozen(Slow(), [Binding(a.buffer, 0, 32)], b"", 1)])
        assert recording.wait(10)
        backend.synchronize()
        assert backend.read(a.buffer, 0, np.dtype(np.float32), 8)[7] == 7
        waited.set()
        frozen.result()
    assert len(device.graphs) == 1


def test_a_source_that_does_not_compile(device: Device) -> None:
    x = from_numpy(np.zeros(3, np.float32), backend=cuda.CudaBackend())
    with pytest.raises(KernelError, match=r"\[probe\] cuda/probe.cu does not compile for sm_90a: NVRTC[\s\S]*the log"):
        run(probe("nonsense"), x, scale=1.0)


def test_dynamic_shared_memory(device: Device) -> None:
    kernel = probe()
    kernel.texts["cu"] = "DYNAMIC_SHARED({{ 1000 * BLOCK }})\n" + kernel.texts["cu"]
    run(kernel, from_numpy(np.zeros(3, np.float32), backend=cuda.CudaBackend()), scale=1.0)
    assert device.attributes == [("probe", 8, 64000), ("probe", 9, 100)]
    assert device.launched[0][7] == 64000
    with pytest.raises(KernelError, match="must get a number"):
        nvrtc.dynamic_shared("\nDYNAMIC_SHARED(BLOCK)")


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
        return nvrtc._header_folders(SimpleNamespace(__file__=str(tmp_path / "cupy.py"), cuda=cuda_module))

    with mock.patch.object(nvrtc.importlib, "import_module", side_effect=ImportError):
        with pytest.raises(BackendError, match=r"cuda_bf16.h .* is missing"):
            folders()
        (tmp_path / "include" / "cccl").mkdir(parents=True)
        (tmp_path / "include" / "cuda_bf16.h").touch()
        assert folders() == [tmp_path / "include", tmp_path / "include" / "cccl"]


def test_headers_of_wheels_lie_in_several_folders(tmp_path: Path) -> None:
    """As pip installs CUDA 12; the toolkit of the system, where there is one, comes last."""
    wheels, toolkit = tmp_path / "nvidia", tmp_path / "toolkit"
    for name in ("cuda_runtime", "cuda_nvcc", "cuda_cccl"):
        (wheels / name / "include").mkdir(parents=True)
    (wheels / "cuda_runtime" / "include" / "cuda_bf16.h").touch()
    (toolkit / "include" / "cccl").mkdir(parents=True)
    (toolkit / "include" / "cuda_bf16.h").touch()
    cupy = SimpleNamespace(__file__=str(tmp_path / "cupy.py"), cuda=SimpleNamespace(get_cuda_path=lambda: str(toolkit)))

    def find(name: str) -> str | None:
        if name == "crt":
            raise RuntimeError("UNKNOWN libname='crt'")
        return {"cudart": str(wheels / "cuda_runtime" / "include")}.get(name)

    with mock.patch.object(nvrtc.importlib, "import_module",
                           return_value=SimpleNamespace(find_nvidia_header_directory=find)):
        assert nvrtc._header_folders(cupy) == [
            *(wheels / name / "include" for name in ("cuda_runtime", "cuda_nvcc", "cuda_cccl")),
            toolkit / "include", toolkit / "include" / "cccl"]


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


def test_a_backend_is_let_go(device: Device) -> None:
    """With all its memory: kernels keep what they planned, for one backend of a name, and nothing of the others."""
    kernel, seen = probe(), []
    for _ in range(2):
        backend = cuda.CudaBackend()
        x = from_numpy(np.ones(12, np.float32), backend=backend)
        run(kernel, x, scale=1.0)
        seen.append(weakref.ref(backend))
        del backend, x
        gc.collect()
    assert seen[0]() is None
