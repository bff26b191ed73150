"""Random windows of a token stream. Which windows a step sees follows from the seed and the step alone, so that a run
that resumes reads on exactly where it stopped and every backend is fed the same data."""

from __future__ import annotations

from collections.abc import Mapping, Sized
from typing import Protocol

import numpy as np

from ..errors import DataError
from ..ops.windows import philox64

STREAMS = {"train": 0, "val": 1}  # of random words


class Batches(Protocol):
    """What a trainer reads: each batch is a function of part and number, whatever was read before."""

    @property
    def parts(self) -> Mapping[str, Sized]:
        """What "train" and "val" are taken from."""

    def get(self, part: str, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Inputs and targets, int32 [B,T] each, of batch number `index` of "train" or "val"."""


class TokenStream(Protocol):
    """Tokens in a row, in memory or on disk."""

    def __len__(self) -> int: ...

    def windows(self, starts: np.ndarray, length: int) -> np.ndarray:
        """The tokens from each of int64 [B] starts on, int32 [B,length]."""


class ArrayStream:
    """A stream of tokens in memory.

    Args:
        tokens: int32 [N].
    """

    def __init__(self, tokens: np.ndarray) -> None:
        self.tokens = np.asarray(tokens, np.int32)

    def __len__(self) -> int:
        return len(self.tokens)

    def windows(self, starts: np.ndarray, length: int) -> np.ndarray:
        found: np.ndarray = self.tokens[starts[:, None] + np.arange(length)]
        return found


class WindowBatches:
    """Batches of random windows.

    Args:
        parts: "train" and "val".
        context: length T of a window; a target is its window moved on by one.
        batch: windows B in a batch.

    Raises:
        DataError: a part has no window of this length.
    """

    def __init__(self, parts: Mapping[str, TokenStream], context: int, batch: int, seed: int = 0) -> None:
        self.parts: dict[str, TokenStream] = dict(parts)
        self.context, self.batch, self.seed = context, batch, seed
        name, shortest = min(((n, len(p)) for n, p in self.parts.items()), key=lambda part: part[1])
        if shortest <= context:
            what = "validation" if name == "val" else "training"
            raise DataError(f"[data] the text must give more than {context} tokens (the context) for {what}, got "
                            f"{shortest}. Use a longer text or a smaller --context.")

    def get(self, part: str, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Inputs and targets, int32 [B,T] each, of batch number `index` of "train" or "val"."""
        tokens = self.parts[part]
        windows = tokens.windows(self._starts(part, index, len(tokens) - self.context), self.context + 1)
        return np.ascontiguousarray(windows[:, :-1]), np.ascontiguousarray(windows[:, 1:])

    def _starts(self, part: str, index: int, places: int) -> np.ndarray:
        """int64 [B], each in [0, places)."""
        drawn = philox64(self.seed % 2**64, STREAMS[part], index).random_raw(self.batch)
        if places < 1 << 32:  # the product fits into 64 bits
            return ((drawn >> np.uint64(32)) * np.uint64(places) >> np.uint64(32)).astype(np.int64)
        return np.array([number * places >> 64 for number in drawn.tolist()], np.int64)


class TokenBatches(WindowBatches):
    """Batches of tokens in memory: the last tenth is for validation, the rest for training.

    Args:
        tokens: int32 [N].
        context: length T of a window; a target is its window moved on by one.
        batch: windows B in a batch.
    """

    def __init__(self, tokens: np.ndarray, context: int, batch: int, seed: int = 0, val_fraction: float = 0.1) -> None:
        cut = int(len(tokens) * (1 - val_fraction))
        super().__init__({"train": ArrayStream(tokens[:cut]), "val": ArrayStream(tokens[cut:])}, context, batch, seed)
