"""Batches that are drawn on the device, from tokens that lie there: a step then takes nothing from the host.

Windows are those of WindowBatches, bit for bit, so a run may go on either way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sized
from dataclasses import dataclass

from .. import runtime
from ..array import Array, from_numpy
from ..dtypes import int32, uint32
from ..errors import DataError
from ..ops.windows import batch_words, draw_windows
from ..tensor import Tensor
from .batches import STREAMS, ArrayStream, Batches, WindowBatches

_TOKEN_BYTES = 4
_MOST_TOKENS = 2**31 - 1   # places are int32
_MOST_BYTES = 1 << 30      # where it is not known how much memory a device has
_MEMORY_SHARE = 8          # at most one part in so many of a device's memory is for tokens

TensorBatch = tuple[Tensor, Tensor]


def why_on_host(batches: Batches, backend: str) -> str:
    """Why batches cannot be drawn on a backend, as the end of a sentence; "" where they can."""
    streams = list(batches.parts.values())
    if not isinstance(batches, WindowBatches) or not all(isinstance(s, ArrayStream) for s in streams):
        return "as the tokens are not held in memory as one stream"
    limits, sizes = runtime.get(backend).device.limits, [len(s) * _TOKEN_BYTES for s in streams]
    binding = int(limits.get("max-storage-buffer-binding-size", _MOST_TOKENS * _TOKEN_BYTES))
    share = int(limits["memory"]) // _MEMORY_SHARE if "memory" in limits else _MOST_BYTES
    for size, most, what in ((max(sizes), binding, "may lie in one buffer"),
                             (sum(sizes), share, "are kept for tokens")):
        if size > most:
            return f"as {size / 2**20:,.1f} MiB of tokens are more than the {most / 2**20:,.1f} MiB that {what} there"
    return ""


def placed(batches: Batches, backend: str) -> Batches | DeviceBatches:
    """The batches, drawn on the backend where that can be (see why_on_host)."""
    if isinstance(batches, WindowBatches) and not why_on_host(batches, backend):
        return DeviceBatches(batches, backend)
    return batches


@dataclass(frozen=True)
class _Part:
    """A part's tokens, and the state that says which of its batches comes next."""

    tokens: Array
    state: Array


class DeviceBatches:
    """The batches of `host`, as tensors on a backend. `get` takes any of them; `next` the one after the last, where
    the number lies in device memory and a launch moves it on, so that a captured step reads on at each replay:

        @dm.capture
        def step():
            tokens, targets = batches.next("train")
            ...

    A part's tokens go to the device when it is first used.

    Raises:
        DataError: the tokens cannot lie on this backend.
    """

    def __init__(self, host: WindowBatches, backend: str) -> None:
        self.host, self.backend = host, runtime.get(backend)
        reason = why_on_host(host, backend)
        if reason:
            raise DataError(f"[data] batches must be such that {backend} can draw them, got ones that it cannot, "
                            f"{reason}. Use them as they are.")
        self._parts: dict[str, _Part] = {}

    @property
    def parts(self) -> Mapping[str, Sized]:
        """What "train" and "val" are taken from."""
        return self.host.parts

    @property
    def nbytes(self) -> int:
        """Of all tokens, as they lie on the device."""
        return sum(len(part) for part in self.parts.values()) * _TOKEN_BYTES

    def get(self, part: str, index: int) -> TensorBatch:
        """Inputs and targets, int32 [B,T] each, of batch number `index` of "train" or "val"."""
        return self._draw(part, self._state(part, index))

    def next(self, part: str) -> TensorBatch:
        """The batch after the last that `next` gave, or the one that `seek` named; in the beginning number 0."""
        return self._draw(part, self._part(part).state)

    def seek(self, part: str, index: int) -> None:
        """Makes `index` the number of the next batch. A captured step cannot do this: call it outside."""
        self._part(part).state.write(batch_words(self._seed, STREAMS[part], index))

    @property
    def _seed(self) -> int:
        return self.host.seed % 2**64

    def _state(self, part: str, index: int) -> Array:
        return from_numpy(batch_words(self._seed, STREAMS[part], index), uint32, self.backend)

    def _part(self, part: str) -> _Part:
        if part not in self._parts:
            stream = self.host.parts[part]
            assert isinstance(stream, ArrayStream)
            with runtime.recorded_by(None):  # no part of a step that is being captured: it is there from now on
                self._parts[part] = _Part(from_numpy(stream.tokens, int32, self.backend), self._state(part, 0))
        return self._parts[part]

    def _draw(self, part: str, state: Array) -> TensorBatch:
        x, y = draw_windows(self._part(part).tokens, state, self.host.batch, self.host.context)
        return Tensor(x), Tensor(y)
