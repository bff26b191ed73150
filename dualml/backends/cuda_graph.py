"""A frozen list of CUDA launches: recorded once as a CUDA graph, and handed to the device by one call per replay.

What is recorded must neither allocate nor wait. So all memory is there before: buffers are the program's own, cuBLAS
works in workspaces that it was given (cublas.py), and programs that need more have it made by `prepare`.

Launches that need not wait for one another are recorded on different streams, which makes them branches of the graph.
While recording, nothing runs on a stream: it is what the next launch on it will wait for.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .base import Frozen

if TYPE_CHECKING:
    from .cuda import CudaBackend

_SHORTEST = 4 << 20  # bytes that a device moves in the time that any launch takes


@dataclass(frozen=True, slots=True)
class Turn:
    """Where a launch is recorded: the number of its stream, and launches on others that it must wait for."""

    lane: int
    waits: tuple[int, ...]


def turns(launches: Sequence[Frozen], streams: int) -> list[Turn]:
    """A stream for each launch: the one on which it could begin first if launches took as long as their bytes, and of
    equal ones that whose last launch it needs anyway."""
    found: list[Turn] = []
    ends: list[int] = []             # when each launch would be done
    known: list[tuple[int, ...]] = []  # for each launch: of each stream, the last launch that is done before it ends
    tails = [-1] * streams           # the last launch of each stream
    for index, one in enumerate(launches):
        ready = max((ends[other] for other in one.after), default=0)
        begin, _, lane = min((max(ready, ends[tail] if tail >= 0 else 0), tail not in one.after, lane)
                             for lane, tail in enumerate(tails))
        seen, waits = known[tails[lane]] if tails[lane] >= 0 else (-1,) * streams, []
        for other in sorted(one.after, reverse=True):
            if seen[found[other].lane] < other:
                waits.append(other)
                seen = tuple(map(max, seen, known[other]))
        tails[lane] = index
        ends.append(begin + max(_SHORTEST, sum(bound.nbytes for bound in one.bindings)))
        known.append((*seen[:lane], index, *seen[lane + 1:]))
        found.append(Turn(lane, tuple(waits)))
    return found


class Graph:
    """Records the launches, executing none of them, and replays them on the backend's stream when called. Called with
    the backend's lock held, for whatever another thread enqueued meanwhile would be recorded too."""

    def __init__(self, backend: CudaBackend, launches: Sequence[Frozen]) -> None:
        self.stream, self.launches = backend.stream, list(launches)  # the launches keep their buffers
        self.turns = turns(launches, backend.streams)
        width = 1 + max(turn.lane for turn in self.turns)
        while len(backend.lanes) < width:
            backend.lanes.append(backend.cupy.cuda.Stream(non_blocking=True))
        self._lanes = backend.lanes[:width]
        self._read = [one.program.prepare(one.params, self._lanes[turn.lane])
                      for one, turn in zip(launches, self.turns, strict=True) if one.program is not None]
        self._graph = record(backend.cupy, self._lanes, lambda marks: self._enqueue(backend, marks))

    def _enqueue(self, backend: CudaBackend, marks: Marks) -> None:
        awaited = {other for turn in self.turns for other in turn.waits}
        events: dict[int, Any] = {}
        for index, (one, turn) in enumerate(zip(self.launches, self.turns, strict=True)):
            stream = self._lanes[turn.lane]
            for other in turn.waits:
                stream.wait_event(events[other])
            if one.program is None:
                backend.enqueue_copy(one.bindings[0], one.bindings[1], stream)
            else:
                one.program.launch(one.bindings, one.params, one.groups, stream)
            if index in awaited:
                events[index] = marks(stream)

    def __call__(self) -> None:
        self._graph.launch(self.stream)


Marks = Callable[[Any], Any]  # of a stream: an event, which is all that the stream was told so far


def record(cupy: Any, streams: Sequence[Any], work: Callable[[Marks], None]) -> Any:
    """The graph of what `work` enqueues on the streams. They leave capture mode whatever happens: the first one begins
    and ends it, the others fork from it and join it again."""
    events: list[Any] = []  # kept until the end

    def mark(stream: Any) -> Any:
        events.append(cupy.cuda.Event(disable_timing=True))
        events[-1].record(stream)
        return events[-1]

    def join() -> None:
        for side in sides:
            stream.wait_event(mark(side))

    stream, *sides = streams
    stream.begin_capture()
    try:
        begin = mark(stream) if sides else None
        for side in sides:
            side.wait_event(begin)
        work(mark)
        join()
    except BaseException:
        with contextlib.suppress(RuntimeError):  # that the capture is invalid, which is known
            join()
        with contextlib.suppress(RuntimeError):
            stream.end_capture()
        raise
    return stream.end_capture()


class Clock:
    """Device time of launches, by an event before and one after each."""

    def __init__(self, cupy: Any, stream: Any) -> None:
        self._cupy, self._stream = cupy, stream
        self._pairs: list[tuple[Any, Any]] = []

    def time(self, launch: Callable[[], None]) -> None:
        begin, end = self._cupy.cuda.Event(), self._cupy.cuda.Event()
        begin.record(self._stream)
        launch()
        end.record(self._stream)
        self._pairs.append((begin, end))

    def seconds(self) -> list[float]:
        """Waits for the last launch."""
        if self._pairs:
            self._pairs[-1][1].synchronize()
        return [self._cupy.cuda.get_elapsed_time(begin, end) * 1e-3 for begin, end in self._pairs]
