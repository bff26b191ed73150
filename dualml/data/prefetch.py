"""Batches gathered ahead by a thread, while the step before them runs."""

from __future__ import annotations

from collections.abc import Mapping, Sized
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from .batches import Batches

Batch = tuple[np.ndarray, np.ndarray]


class Prefetch:
    """The same batches, of which the next few are ready when they are asked for.

    A batch depends on its number alone, so gathering ahead cannot change it; what goes wrong in the thread is raised
    where the batch is asked for. The thread ends with `close`, with the object, or with the process.

    Args:
        ahead: batches that wait at most, for each part.
    """

    def __init__(self, batches: Batches, ahead: int = 2) -> None:
        self.batches, self.ahead = batches, ahead
        self._waiting: dict[tuple[str, int], Future[Batch]] = {}
        self._thread: ThreadPoolExecutor | None = ThreadPoolExecutor(1, "dualml-batches")

    @property
    def parts(self) -> Mapping[str, Sized]:
        """What "train" and "val" are taken from."""
        return self.batches.parts

    def get(self, part: str, index: int) -> Batch:
        """Inputs and targets, int32 [B,T] each, of batch number `index` of "train" or "val"."""
        ready = self._waiting.pop((part, index), None)
        found = ready.result() if ready is not None else self.batches.get(part, index)
        self._gather(part, range(index + 1, index + 1 + self.ahead))
        return found

    def _gather(self, part: str, wanted: range) -> None:
        for key in [k for k in self._waiting if k[0] == part and k[1] not in wanted]:
            self._waiting.pop(key).cancel()
        for index in wanted if self._thread is not None else ():
            if (part, index) not in self._waiting:
                assert self._thread is not None
                self._waiting[part, index] = self._thread.submit(self.batches.get, part, index)

    def close(self) -> None:
        """Ends the thread. Batches may still be asked for."""
        if self._thread is not None:
            self._thread.shutdown(cancel_futures=True)
            self._thread = None
        self._waiting.clear()
