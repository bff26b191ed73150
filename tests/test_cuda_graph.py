"""CUDA graphs without a GPU: what is recorded and with which edges, that nothing in it allocates or waits, and what
happens where a recording fails. The stand-in refuses what CUDA does, and runs a graph in a random order."""

from __future__ import annotations

import gc
import itertools
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dualml as dm
from dualml import optim, runtime
from dualml.array import Array, from_numpy, run
from dualml.backends import cuda
from dualml.backends.cuda_graph import turns
from dualml.errors import BackendError, DeviceLostError
from dualml.models import GPT, GPTConfig
from dualml.ops.matmul import gemm
from dualml.programs.program import Program
from dualml.programs.recording import Recording
from tests.cuda_references import WithReferences, references_compute
from tests.cupy_stand_in import CudaError, Device, Event, Graph, Stream, probe, put_in_place
from tests.orders import unordered, uses
from tests.training import training_step

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
    assert stream.capture is None
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
    program.launch = lambda *_: setattr(device.streams[0].capture, "spoilt", True)
    with pytest.raises(BackendError, match=r"CaptureInvalidated"):
        Program(recording, [x], 0)
    assert device.streams[0].capture is None


# ---- branches --------------------------------------------------------------------------------------------------------

CONFIG = GPTConfig(vocab_size=24, context=8, layers=2, heads=2, width=16, dropout=0.1)


def losses(capture: bool, steps: int = 8) -> tuple[list[float], bytes, Any]:
    """What training a GPT with dropout, clipping and AdamW gives, and the captured step."""
    dm.manual_seed(0)
    model, rng = GPT(CONFIG), np.random.default_rng(0)
    step = training_step(model, optim.AdamW(model.parameters(), 1e-2))
    run_step: Any = dm.capture(step) if capture else step
    found = [run_step(*map(dm.tensor, rng.integers(0, 24, (2, 2, 8)).astype(np.int32))).item() for _ in range(steps)]
    return found, b"".join(p.detach().numpy().tobytes() for p in model.parameters()), run_step


@pytest.fixture
def computing(device: Device, monkeypatch: pytest.MonkeyPatch) -> Iterator[WithReferences]:
    """A backend whose kernels compute, made the current one."""
    with references_compute(monkeypatch) as backend:
        yield backend


@pytest.mark.parametrize(("vendor", "streams"), [(True, 2), (True, 1), (True, 4), (False, 2)])
def test_a_training_step_in_any_order(device: Device, computing: WithReferences, vendor: bool, streams: int) -> None:
    """Each replay runs the graph in another order that its edges allow; all give the bits of the eager step."""
    computing.vendor, computing.streams = vendor, streams
    *wanted, _ = losses(capture=False)
    *found, step = losses(capture=True)
    assert found == wanted
    graph, = device.graphs
    assert len(graph.runs) == 6  # two calls were recorded
    assert (len({tuple(run) for run in graph.runs}) > 1) == (streams > 1)
    if not vendor:  # then each launch is a node
        assert unordered(uses(step.programs[0]), graph.after) == []


def test_every_wait_is_needed(device: Device, computing: WithReferences, monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted faults: a recording that forgets one wait is refused by CUDA, or lacks an order that it must have."""
    computing.vendor = False
    *_, step = losses(capture=True, steps=2)
    program, wait_event = step.programs[0], Stream.wait_event
    waits, forgotten, calls = sum(len(turn.waits) for turn in turns(program._frozen, 2)), 0, itertools.count()

    def forgets(self: Stream, event: Any) -> None:
        if next(calls) != forgotten:  # the first is the fork
            wait_event(self, event)
    monkeypatch.setattr(Stream, "wait_event", forgets)
    for forgotten in range(1, waits + 1):  # noqa: B007
        calls = itertools.count()
        try:
            computing.freeze(program._frozen)
        except BackendError as error:
            assert "CaptureUnjoined" in str(error)  # noqa: PT017
        else:
            assert unordered(uses(program), device.graphs[-1].after)
    assert waits > 5


def test_products_that_run_side_by_side_have_workspaces_of_their_own(device: Device) -> None:
    """x w and x v need one another's results as little as a linear layer's two gradients do."""
    backend, rng = cuda.CudaBackend(), np.random.default_rng(0)
    backend.streams = 3
    x, w, v = (from_numpy(a.astype(np.float32), backend=backend) for a in (
        X, rng.standard_normal((1, 4, 5)), rng.standard_normal((1, 4, 6))))
    recording, outs = recorded(backend, x, lambda given: (gemm(given, w), given.copy(), gemm(given, v)))
    program = Program(recording, [x], 0)
    assert [set(after) for after in device.graphs[0].after] == [set(), set(), set()]
    vendor = device.cuda.cublas
    assert len(vendor.calls) == len(set(vendor.workspaces.values())) == len(set(vendor.streams.values())) == 2
    assert len(device.streams) == 3  # the copy's needs no workspace
    for factor in (1, -2):
        program.replay([factor * X])
        for out, weight in zip(outs[::2], (w, v), strict=True):
            np.testing.assert_allclose(out.numpy(), factor * X @ weight.numpy(), 1e-5)
    Program(recording, [x], 0)
    assert (len(device.streams), len(vendor.calls)) == (3, 2)  # the next recording takes the same


def test_one_stream_makes_a_chain(device: Device) -> None:
    backend = cuda.CudaBackend()
    backend.streams = 1
    recording, x, _kept = three_apart(backend)
    Program(recording, [x], 0)
    assert [set(after) for after in device.graphs[0].after] == [set(), {0}, {1}]
    assert len(device.streams) == 1


def three_apart(backend: Any) -> tuple[Recording, Array, Any]:
    """Three launches whose results are kept."""
    x, ours = from_numpy(np.zeros(6, np.float32), backend=backend), probe()
    recording, kept = recorded(backend, x, lambda given: [run(ours, given, scale=float(i)) for i in range(3)])
    return recording, x, kept


@pytest.mark.parametrize("failing", range(3))
def test_a_recording_that_fails_ends_on_all_streams(device: Device, failing: int) -> None:
    backend = cuda.CudaBackend()
    recording, x, _kept = three_apart(backend)
    program, launch = recording.items[failing].program, recording.items[failing].program.launch

    def refused(bindings: Any, params: bytes, *rest: Any) -> None:
        if params == recording.items[failing].params:
            raise CudaError(1, "cudaErrorOfTheLaunch")
        launch(bindings, params, *rest)
    program.launch = refused
    with pytest.raises(BackendError, match=r"3 launches could not be recorded as a CUDA graph: .*OfTheLaunch"):
        Program(recording, [x], 0)
    assert len(device.streams) == 2
    assert [stream.capture for stream in device.streams] == [None, None]
    program.launch = launch
    Program(recording, [x], 0).replay([np.ones(6, np.float32)])
    assert len(device.launched) == 6  # those of the call, and of the replay
    backend.synchronize()


def test_the_stand_in_refuses_what_cuda_refuses(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    """A side stream that is not joined, one that is not forked, an event from elsewhere."""
    backend = cuda.CudaBackend()
    recording, x, _kept = three_apart(backend)

    def fails(what: str) -> None:
        with pytest.raises(BackendError, match=what):
            Program(recording, [x], 0)
        assert not any(stream.capture for stream in device.streams)
    Program(recording, [x], 0)
    main, side = device.streams
    with monkeypatch.context() as patch:
        patch.setattr(main, "wait_event", lambda event: None, raising=False)
        fails("CaptureUnjoined")
    with monkeypatch.context() as patch:
        patch.setattr(side, "wait_event", lambda event: None, raising=False)
        fails("CaptureUnsupported: work on a stream that is not recorded")
    with monkeypatch.context() as patch:
        patch.setattr(device.cuda.Event, "record", lambda self, stream: None)
        fails("CaptureUnsupported|CaptureIsolation")


# ---- a whole model ---------------------------------------------------------------------------------------------------

def told(device: Device, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the device is told from now on, but for what is recorded: a copy says first where it goes."""
    found: list[str] = []

    def noting(owner: Any, name: str, what: Callable[..., str]) -> None:
        original = getattr(owner, name)

        def noted(*given: Any) -> Any:
            found.extend([what(*given)] if what(*given) else [])
            return original(*given)
        monkeypatch.setattr(owner, name, noted)
    noting(Stream, "do", lambda stream, work: "" if stream.capture else "work")
    noting(Graph, "launch", lambda *_: "graph")
    noting(device.cuda.runtime, "memcpyAsync", lambda *given: ("", "to device", "to host", "on device")[given[3]])
    for kind in (Stream, Event):
        noting(kind, "synchronize", lambda *_: "wait")
    return found


def test_the_12m_model_trains_by_one_graph(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    """In bfloat16, with dropout, clipping and AdamW. A replay hands over where random numbers go on, tokens, targets
    and AdamW's numbers, launches the graph and copies the loss; nothing else is told, allocated or waited for. The
    stand-in computes products alone, so that losses mean nothing here: smaller models above are for those."""
    backend, rng = cuda.CudaBackend(), np.random.default_rng(0)
    monkeypatch.setitem(runtime._open, backend.name, backend)
    with dm.use_backend(backend.name):
        dm.manual_seed(0)  # random numbers of backends of other tests go their own way
        model = GPT.from_preset("gpt-12m", 4096)
        step: Any = dm.capture(training_step(model, optim.AdamW(model.parameters()), "bfloat16"))
        found = told(device, monkeypatch)
        for replays in (0, 0, 1, 2):  # two calls are recorded
            launched, memory = len(device.launched), len(device.memory)
            found.clear()
            step(*rng.integers(0, 4096, (2, 2, 64)).astype(np.int32))
            assert sum(len(graph.runs) for graph in device.graphs) == replays
    program, (graph,) = step.programs[0], device.graphs
    assert sum(np.prod(p.shape) for p in model.parameters()) == 12_322_816
    assert found == ["to device", "work"] * 4 + ["graph", "on device", "work"]
    assert [len(m.bytes) for m in device.memory[memory:]] == [4]  # for the loss
    assert len(graph.work) >= program.launches > 200
    assert sorted(name for name, *_ in device.launched[launched:]) == sorted(
        item.name for item in program.items if item.spec and item.name != "matmul")


# ---- the rest --------------------------------------------------------------------------------------------------------

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
