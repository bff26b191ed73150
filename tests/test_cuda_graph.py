"""CUDA graphs without a GPU: what is recorded and in which order, that nothing in it allocates or waits, and what
happens where a recording fails. The stand-in refuses both while it records, as CUDA does."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dualml import runtime
from dualml.array import Array, from_numpy, run
from dualml.backends import cuda
from dualml.errors import BackendError, DeviceLostError
from dualml.ops.matmul import gemm
from dualml.programs.program import Program
from dualml.programs.recording import Recording
from tests.cupy_stand_in import CudaError, Device, probe, put_in_place

X = np.arange(12, dtype=np.float32).reshape(1, 3, 4)


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Device:
    return put_in_place(monkeypatch, tmp_path)


def recorded(backend: Any, x: Array, work: Callable[[Array], Any]) -> tuple[Recording, Any]:
    recording = Recording("step", backend, [x.buffer])
    with runtime.recorded_by(recording):
        return recording, work(x)


def test_a_step_becomes_one_graph(device: Device) -> None:
    """Products with a bias, a copy and a kernel of ours: nothing runs while recording, all of it at each replay."""
    backend = cuda.CudaBackend()
    stream, rng = device.streams[0], np.random.default_rng(0)
    x, w, v, bias = (from_numpy(a, backend=backend) for a in (
        X, rng.standard_normal((1, 4, 5)).astype(np.float32), rng.standard_normal((1, 5, 2)).astype(np.float32),
        rng.standard_normal(5).astype(np.float32)))
    kept = from_numpy(np.zeros(6, np.float32), backend=backend)
    ours = probe()

    def step(given: Array) -> Array:
        hidden = gemm(given, w, bias=bias)
        out = gemm(hidden, v)
        kept.copy_from(out.reshape(6))
        run(ours, out.reshape(6), scale=1.0)
        return out
    recording, out = recorded(backend, x, step)
    assert stream.log == []
    launched, memory = len(device.launched), len(device.memory)
    program = Program(recording, [x], 0)
    assert stream.log == ["begin", "end"]
    assert len(device.launched) == launched
    made = len(device.memory)
    assert made > memory  # its own input, and arenas
    for factor in (1, 2, -3):
        kept.write(np.zeros(6, np.float32))
        program.replay([factor * X])
        wanted = (factor * X @ w.numpy() + bias.numpy()) @ v.numpy()
        np.testing.assert_allclose(out.numpy(), wanted, 1e-5)
        np.testing.assert_array_equal(kept.numpy(), out.numpy().reshape(6))
    assert len(device.launched) == launched + 3
    assert len(device.memory) == made
    assert stream.log == ["begin", "end"]


def test_what_products_read_is_there_before_and_stays(device: Device) -> None:
    """The column of ones of a bias is made before a recording, and outlives a larger one made for other products."""
    backend = cuda.CudaBackend()
    x, w = from_numpy(X, backend=backend), from_numpy(np.ones((1, 4, 5), np.float32), backend=backend)
    bias = from_numpy(np.arange(5, dtype=np.float32), backend=backend)
    recording, out = recorded(backend, x, lambda given: gemm(given, w, bias=bias))
    recording.items[0].program.ones = None  # as where a program comes from a file
    program = Program(recording, [x], 0)
    ones = recording.items[0].program.ones
    large = from_numpy(np.ones((1, 300, 4), np.float32), backend=backend)
    gemm(large, w, bias=bias)
    assert recording.items[0].program.ones is not ones
    alive = weakref.ref(ones)
    del ones
    gc.collect()
    assert alive() is not None
    program.replay([X])
    np.testing.assert_allclose(out.numpy(), X @ w.numpy() + bias.numpy())


@pytest.mark.parametrize(("status", "kind"), [(1, BackendError), (700, DeviceLostError)])
def test_a_recording_that_fails_ends(device: Device, status: int, kind: type[BackendError]) -> None:
    backend = cuda.CudaBackend()
    x = from_numpy(np.zeros(6, np.float32), backend=backend)
    recording, _out = recorded(backend, x, lambda given: run(probe(), given, scale=1.0))
    device.refused = CudaError(status, "cudaErrorOfTheLaunch")
    with pytest.raises(kind, match=r"\[cuda\] 1 launches could not be recorded as a CUDA graph: .*OfTheLaunch"):
        Program(recording, [x], 0)
    stream = device.streams[0]
    assert stream.log == ["begin", "end"]
    assert stream.captured is None
    device.refused = None
    backend.synchronize()  # the stream works on


def test_a_recording_that_allocates_is_refused(device: Device) -> None:
    backend = cuda.CudaBackend()
    x = from_numpy(np.zeros(6, np.float32), backend=backend)
    recording, _out = recorded(backend, x, lambda given: run(probe(), given, scale=1.0))
    program = recording.items[0].program
    program.launch = lambda *_: backend.alloc(4)
    with pytest.raises(BackendError, match=r"could not be recorded as a CUDA graph: .*CaptureUnsupported: memory"):
        Program(recording, [x], 0)
    program.launch = lambda *_: setattr(device.streams[0], "spoilt", True)
    with pytest.raises(BackendError, match=r"CaptureInvalidated"):
        Program(recording, [x], 0)
    assert device.streams[0].captured is None


def test_nothing_to_record(device: Device) -> None:
    backend = cuda.CudaBackend()
    backend.freeze([])()
    assert device.streams[0].log == []


def test_cublas_answers_with_a_status(device: Device) -> None:
    x = from_numpy(X, backend=cuda.CudaBackend())
    device.cuda.cublas.status = 13
    with pytest.raises(BackendError, match=r"cuBLAS answered with status 13"):
        gemm(x, x, tb=True)


def test_launches_are_timed_by_events(device: Device) -> None:
    backend = cuda.CudaBackend()
    x = from_numpy(np.zeros(6, np.float32), backend=backend)
    assert backend.end_timing() == []
    assert backend.begin_timing()
    for _ in range(3):
        run(probe(), x, scale=1.0)
    assert backend.end_timing() == [3e-3] * 3  # the stand-in's clock goes on by 3 ms at each event
    run(probe(), x, scale=1.0)
    assert backend.end_timing() == []
