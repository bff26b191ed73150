"""Device time of WebGPU launches: a pass for each, with timestamps at its ends."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np


class Clock:
    """Submits launches and collects the seconds that each took on the device."""

    def __init__(self, gpu: Any, most: int) -> None:
        import wgpu
        self.gpu, self.seconds = gpu, []  # type: tuple[Any, list[float]]
        self._queries = gpu.create_query_set(type="timestamp", count=2 * most)
        usage = wgpu.BufferUsage
        self._results = gpu.create_buffer(size=16 * most, usage=usage.QUERY_RESOLVE | usage.COPY_SRC)

    def submit(self, encoder: Any, pending: Sequence[tuple[Any, Any, int, int]],
               folded: Callable[[int], tuple[int, int]]) -> None:
        """Encodes and submits `pending` (program, bind group, parameters' offset, groups), and waits."""
        for index, (program, group, slot, groups) in enumerate(pending):
            scope = encoder.begin_compute_pass(timestamp_writes={
                "query_set": self._queries, "beginning_of_pass_write_index": 2 * index,
                "end_of_pass_write_index": 2 * index + 1})
            scope.set_pipeline(program.pipeline)
            scope.set_bind_group(0, group, [slot])
            scope.dispatch_workgroups(*folded(groups))
            scope.end()
        encoder.resolve_query_set(self._queries, 0, 2 * len(pending), self._results, 0)
        self.gpu.queue.submit([encoder.finish()])
        raw = self.gpu.queue.read_buffer(self._results, 0, 16 * len(pending))
        nanoseconds = np.frombuffer(raw, np.uint64).reshape(-1, 2).astype(np.float64)  # WebGPU's unit
        self.seconds += ((nanoseconds[:, 1] - nanoseconds[:, 0]) * 1e-9).tolist()
