"""A frozen list of CUDA launches: recorded once as a CUDA graph, and handed to the device by one call per replay.

What is recorded must neither allocate nor wait. So all memory is there before: buffers are the program's own, cuBLAS
works in a workspace that it was given (cublas.py), and programs that need more have it made by `prepare`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from .base import Frozen

if TYPE_CHECKING:
    from .cuda import CudaBackend


class Graph:
    """Records the launches on the backend's stream, which executes none of them, and replays them when called. Called
    with the backend's lock held, for whatever another thread enqueued meanwhile would be recorded too."""

    def __init__(self, backend: CudaBackend, launches: Sequence[Frozen]) -> None:
        self.stream, self.launches = backend.stream, list(launches)  # the launches keep their buffers
        self._read = [one.program.prepare(one.params) for one in launches if one.program is not None]
        self._graph = record(self.stream, lambda: self._enqueue(backend))

    def _enqueue(self, backend: CudaBackend) -> None:
        for one in self.launches:
            if one.program is None:
                backend.enqueue_copy(*one.bindings)
            else:
                one.program.launch(one.bindings, one.params, one.groups)

    def __call__(self) -> None:
        self._graph.launch(self.stream)


def record(stream: Any, work: Callable[[], None]) -> Any:
    """The graph of what `work` enqueues. The stream leaves capture mode whatever happens."""
    stream.begin_capture()
    try:
        work()
    except BaseException:
        with contextlib.suppress(RuntimeError):  # that the capture is invalid, which is known
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
