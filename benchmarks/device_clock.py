"""Device time of many calls, taken the same way for dualml and for PyTorch, which take turns.

An event stands before the calls and one behind them, and nothing waits between. A call that an idle device is asked for
would be timed with the host's way to it; so the device gets large copies to do first, and by the time it is done with
these, all calls stand in its queue. The copies also leave nothing of earlier calls in its cache. A sample whose calls
could not be covered so is marked: it is the host's time.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

from dualml import runtime
from dualml.backends.base import Backend
from dualml.kernel import Kernel, Spec, Variant

COVER = 1 << 30      # bytes of a covering copy: half a millisecond of an H200
MOST_COVERS = 80
LEAST, MOST = 3, 50  # calls of a sample


class HostClock:
    """For devices without events: each mark waits."""

    device_time = False

    def __init__(self, wait: Callable[[], Any] = lambda: None) -> None:
        self.wait = wait

    def mark(self) -> Any:
        self.wait()
        return time.perf_counter()

    def between(self, begin: Any, end: Any) -> float:
        return float(end - begin)

    def cover(self) -> None:
        """A copy that keeps the device busy, of `cover_bytes` read and as many written."""


class OurClock(HostClock):
    """dualml's backend: CUDA's events on its stream, else the host's clock."""

    def __init__(self, backend: Backend, cover_bytes: int = COVER) -> None:
        super().__init__(backend.synchronize)
        self.backend: Any = backend
        self.device_time = hasattr(backend, "cupy")
        self.cover_bytes = cover_bytes
        self.buffers = [backend.alloc(cover_bytes) for _ in range(2)]

    def mark(self) -> Any:
        if not self.device_time:
            return super().mark()
        event = self.backend.cupy.cuda.Event()
        event.record(self.backend.stream)
        return event

    def between(self, begin: Any, end: Any) -> float:
        if not self.device_time:
            return super().between(begin, end)
        end.synchronize()
        return float(self.backend.cupy.cuda.get_elapsed_time(begin, end)) * 1e-3

    def cover(self) -> None:
        self.backend.copy(self.buffers[0], 0, self.buffers[1], 0, self.cover_bytes)


class TorchClock(HostClock):
    """PyTorch's current stream."""

    def __init__(self, where: str, cover_bytes: int = COVER) -> None:
        import torch
        self.device_time = where == "cuda"
        super().__init__(torch.cuda.synchronize if self.device_time else lambda: None)
        self.torch, self.cover_bytes = torch, cover_bytes
        self.buffers = [torch.zeros(cover_bytes, dtype=torch.uint8, device=where) for _ in range(2)]

    def mark(self) -> Any:
        if not self.device_time:
            return super().mark()
        event = self.torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def between(self, begin: Any, end: Any) -> float:
        if not self.device_time:
            return super().between(begin, end)
        end.synchronize()
        return float(begin.elapsed_time(end)) * 1e-3

    def cover(self) -> None:
        self.buffers[1].copy_(self.buffers[0])


class Form(AbstractContextManager[None]):
    """Kernels in another form while it is entered: other threads in a workgroup, other variants, or without the
    vendor's library. It keeps programs of its own, since those in use are kept by sizes and not by form."""

    def __init__(self, *kernels: Kernel, block: int | None = None, variants: Sequence[Variant] | None = None,
                 without_vendor: Backend | None = None) -> None:
        self.kernels, self.backend = kernels, without_vendor
        changes: dict[str, Any] = {} if block is None else {"block": block, "software_block": block}
        if variants is not None:
            changes["variants"] = list(variants)
        self.other = [{"made": {}} | changes for _ in kernels]

    def _swap(self) -> None:
        for kernel, state in zip(self.kernels, self.other, strict=True):
            for name, value in list(state.items()):
                state[name] = getattr(kernel, name)
                setattr(kernel, name, value)

    def __enter__(self) -> None:
        self._swap()
        if self.backend is not None:
            self._vendor = getattr(self.backend, "vendor", False)
            self.backend.vendor = False  # type: ignore[attr-defined]

    def __exit__(self, *_: object) -> None:
        self._swap()
        if self.backend is not None:
            self.backend.vendor = self._vendor  # type: ignore[attr-defined]


@dataclass(frozen=True)
class Sample:
    """Of one call: seconds on the device, seconds in which the host asked for it; whether the first are only that. The
    error of what it made over what is allowed, where somebody looked."""

    seconds: float
    host: float
    covered: bool
    error: float | None = None

    @property
    def wrong(self) -> str:
        """What to say of a wrong result; a NaN is one too."""
        right = self.error is None or self.error <= 1
        return "" if right else f"WRONG, error {self.error:.3g} times what is allowed"

    @property
    def check(self) -> str | None:
        return None if self.error is None else self.wrong or "right"


@dataclass
class Contestant:
    """Something to be timed. `form` is entered around it. `warmups`: calls before, such that each set of buffers had
    its turn and memory for its results is there. `check` tells the error in this form over what is allowed."""

    name: str
    clock: HostClock
    work: Callable[[], Any]
    form: AbstractContextManager[None] = field(default_factory=nullcontext)
    warmups: int = 2
    covers: int = 1
    samples: list[Sample] = field(default_factory=list)
    check: Callable[[], float] | None = None
    error: float | None = None

    def warm(self) -> None:
        """Compiles, looks at what comes out, and fills caches."""
        with self.form:
            if self.check is not None:
                self.error = self.check()
            for _ in range(self.warmups):
                self.work()
        self.clock.wait()

    def sample(self, count: int) -> Sample:
        with self.form:
            while True:
                self.clock.wait()
                first = self.clock.mark()
                for _ in range(self.covers if self.clock.device_time else 0):
                    self.clock.cover()
                begin = self.clock.mark()
                began = time.perf_counter()
                for _ in range(count):
                    self.work()
                host = time.perf_counter() - began
                end = self.clock.mark()
                seconds, covered = self.clock.between(begin, end), self.clock.between(first, begin)
                if not self.clock.device_time or host < covered or self.covers >= MOST_COVERS:
                    return Sample(seconds / count, host / count, host < covered)
                self.covers = min(MOST_COVERS, math.ceil(1.5 * self.covers * host / covered) + 1)


def rotated(works: Sequence[Callable[[], Any]]) -> Callable[[], Any]:
    """Works over several sets of buffers in turn. Each set's results stay until its next turn, so that they take turns
    in memory too."""
    kept: list[Any] = [None] * len(works)
    turn = 0

    def work() -> None:
        nonlocal turn
        turn = (turn + 1) % len(works)
        kept[turn] = None
        kept[turn] = works[turn]()
    return work


def compare(contestants: Iterable[Contestant], rounds: int, seconds: float, most: int = MOST) -> dict[str, Sample]:
    """The medians of each, by name, taking turns; `seconds` of calls in a sample, about. Who fails is told and left
    out."""
    team, counts = [], []
    for one in contestants:
        try:
            one.warm()
            guess = one.sample(min(LEAST, most))
        except Exception as error:  # a rival that does not take these sizes, a form that does not fit the device
            print(f"  {one.name}: {type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]}", flush=True)
            continue
        team.append(one)
        counts.append(max(min(LEAST, most), min(most, round(seconds / max(guess.seconds, 1e-9)))))
    for _ in range(rounds):
        for one, count in zip(team, counts, strict=True):
            one.samples.append(one.sample(count))
    return {one.name: Sample(statistics.median(s.seconds for s in one.samples),
                             statistics.median(s.host for s in one.samples),
                             all(s.covered for s in one.samples) or not one.clock.device_time, one.error)
            for one in team}


class _Names:
    """A hook on the one door: what each launch was."""

    def __init__(self, name: Callable[[Spec, Any], str]) -> None:
        self.name, self.found = name, list[str]()

    def before(self, launch: runtime.Launch) -> None:
        self.found.append(self.name(launch.spec, launch.dims))

    def after(self, launch: runtime.Launch) -> None: ...


def by_launch(backend: Backend, work: Callable[[], Any],
              name: Callable[[Spec, Any], str]) -> tuple[list[str], list[float]]:
    """Names of the launches in `work`, by their spec and sizes, and device seconds of each; none of these where the
    backend has no clock for single launches."""
    names = _Names(name)
    backend.begin_timing()
    runtime.hooks.append(names)
    try:
        work()
    finally:
        runtime.hooks.remove(names)
        seconds = backend.end_timing()
    return names.found, seconds
