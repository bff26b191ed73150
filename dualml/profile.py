"""Where the time of launches goes: device time by kernel, bytes and operations per second, and a trace to look at.

    with dm.profile() as profile:
        step(x, y)
    print(profile.table())
    profile.save_trace("trace.json")    # for chrome://tracing or ui.perfetto.dev
    profile.timeline("step.svg")        # a picture
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from . import runtime
from .array import Array, from_numpy
from .backends.base import Backend
from .ops.elementwise import evaluate
from .ops.matmul import gemm
from .programs.costs import moved, operations
from .programs.recording import user_line


@dataclass(slots=True)
class Timed:
    """One launch: seconds on the device, when it began by the host's clock, bytes of its tensors, operations."""

    name: str
    backend: str
    seconds: float
    began: float
    nbytes: int
    flops: float
    where: str


@dataclass(slots=True)
class Row:
    """All launches of a kernel."""

    name: str
    count: int
    seconds: float
    nbytes: int
    flops: float

    @property
    def gigabytes(self) -> float:
        return self.nbytes / max(self.seconds, 1e-12) / 1e9

    @property
    def gigaflops(self) -> float:
        return self.flops / max(self.seconds, 1e-12) / 1e9


class Profile:
    """A hook on the one door, to be used as a context. Captured steps run launch by launch within it.

    Device time comes from timestamps where the backend has them, else from the host's clock around a launch with a wait
    after it.
    """

    def __init__(self) -> None:
        self.launches: list[Timed] = []
        self._waiting: dict[Backend, list[Timed]] = {}
        self._floors: dict[str, tuple[float, float]] = {}

    def __enter__(self) -> Profile:
        runtime.hooks.append(self)
        return self

    def __exit__(self, *_: object) -> None:
        runtime.hooks.remove(self)
        for backend, launches in self._waiting.items():
            for one, seconds in zip(launches, backend.end_timing(), strict=True):
                one.seconds = seconds
        self._waiting.clear()

    # ---- the hook ----

    def before(self, launch: runtime.Launch) -> None:
        backend = launch.backend
        if backend not in self._waiting and backend.begin_timing():
            self._waiting[backend] = []
        if backend not in self._waiting:
            backend.synchronize()
        self._began = time.perf_counter()

    def after(self, launch: runtime.Launch) -> None:
        backend, spec = launch.backend, launch.spec
        timed = backend in self._waiting
        if not timed:
            backend.synchronize()
        seconds = time.perf_counter() - self._began
        nbytes = moved(spec, launch.dims, [((id(b.buffer), b.offset), b.nbytes) for b in launch.bindings])
        one = Timed(spec.kernel.name, backend.name, seconds, self._began, nbytes, operations(spec, launch.dims),
                    user_line())
        self.launches.append(one)
        if timed:
            self._waiting[backend].append(one)

    # ---- what was found ----

    @property
    def seconds(self) -> float:
        return sum(one.seconds for one in self.launches)

    def rows(self) -> list[Row]:
        """Kernels, the one that took most first."""
        found: dict[str, Row] = {}
        for one in self.launches:
            row = found.setdefault(one.name, Row(one.name, 0, 0.0, 0, 0.0))
            row.count += 1
            row.seconds += one.seconds
            row.nbytes += one.nbytes
            row.flops += one.flops
        return sorted(found.values(), key=lambda r: -r.seconds)

    def table(self, most: int = 25) -> str:
        """The rows as text. `floor` is the share of its time that a kernel would need at the speed of this device's
        fastest product and addition, which are measured once."""
        lines = [f"{'kernel':30s} {'launches':>8s} {'ms':>9s} {'share':>6s} {'GB/s':>8s} {'GFLOP/s':>8s} {'floor':>6s}"]
        rows, total = self.rows(), self.seconds
        memory, compute = self._floor() if rows else (1.0, 1.0)
        for row in rows[:most]:
            floor = max(row.nbytes / memory, row.flops / compute) / max(row.seconds, 1e-12)
            rate = f"{row.gigaflops:.1f}" if row.flops else "-"
            lines.append(f"{row.name:30s} {row.count:8d} {row.seconds * 1e3:9.3f} {row.seconds / total:6.1%} "
                         f"{row.gigabytes:8.2f} {rate:>8s} {min(floor, 1.0):6.0%}")
        lines += [f"... and {len(rows) - most} more"] if len(rows) > most else []
        lines.append(f"{'all':30s} {len(self.launches):8d} {total * 1e3:9.3f}")
        return "\n".join(lines)

    def _floor(self) -> tuple[float, float]:
        """Bytes and operations per second that the first launch's backend reaches."""
        name = self.launches[0].backend
        if name not in self._floors:
            self._floors[name] = measure_floor(runtime.get(name))
        return self._floors[name]

    @property
    def span(self) -> float:
        """Seconds from the first launch's beginning to the last one's end, waits for the host among them."""
        return max((b + one.seconds for b, one in zip(self._begins(), self.launches, strict=True)), default=0.0)

    def _begins(self) -> list[float]:
        """Seconds from the first launch to each: when the host asked for it, or when the device had done the one
        before."""
        at: dict[str, float] = {}
        found = []
        for one in self.launches:
            found.append(max(at.get(one.backend, 0.0), one.began - self.launches[0].began))
            at[one.backend] = found[-1] + one.seconds
        return found

    def timeline(self, path: str | os.PathLike[str], title: str = "") -> None:
        """Draws the launches over time as a PNG or SVG: a lane for each kind of kernel, bars as wide as their device
        time, totals in the legend. Gaps are where the device waits for the host. Needs matplotlib."""
        from .timeline import draw
        begins, target = self._begins(), Path(path)
        heading = (f"{title + ': ' if title else ''}{len(self.launches)} launches, {self.seconds * 1e3:.2f} ms of work "
                   f"in {self.span * 1e3:.2f} ms")
        partial = target.with_name(f"{target.stem}.{os.getpid()}{target.suffix}")
        draw(partial, [(one.name, begin, one.seconds) for one, begin in zip(self.launches, begins, strict=True)],
             heading)
        os.replace(partial, target)

    def save_trace(self, path: str | os.PathLike[str]) -> None:
        """Writes the launches as a Chrome trace: a bar per launch, one row per backend, in device time end to end."""
        events = [{"name": one.name, "ph": "X", "ts": begin * 1e6, "dur": one.seconds * 1e6, "pid": one.backend,
                   "tid": "device", "args": {"bytes": one.nbytes, "flops": one.flops, "line": one.where}}
                  for one, begin in zip(self.launches, self._begins(), strict=True)]
        target = Path(path)
        partial = target.with_name(f"{target.name}.{os.getpid()}")
        partial.write_text(json.dumps({"traceEvents": events, "displayTimeUnit": "ms"}), encoding="utf-8")
        os.replace(partial, target)


def profile() -> Profile:
    """A Profile, to be entered by `with`."""
    return Profile()


def measure_floor(backend: Backend) -> tuple[float, float]:
    """Bytes per second of an addition of 16 MiB, and operations per second of a product of 512 x 512 matrices."""
    x, a = (from_numpy(np.ones(s, np.float32), backend=backend) for s in ((1 << 22,), (1, 512, 512)))

    def best(work: Callable[[], Array], rounds: int = 5) -> float:
        work()
        found = []
        for _ in range(rounds):
            backend.synchronize()
            start = time.perf_counter()
            work()
            backend.synchronize()
            found.append(time.perf_counter() - start)
        return min(found)
    addition = best(lambda: evaluate("add_forward", "a + b", {"a": x, "b": x}, x.shape, x.dtype))
    return 3 * x.nbytes / addition, 2 * 512**3 / best(lambda: gemm(a, a))
