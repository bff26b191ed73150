"""Random windows of a token stream. Which windows a step sees follows from the seed and the step alone, so that a run
that resumes reads on exactly where it stopped and every backend is fed the same data."""

from __future__ import annotations

import numpy as np

from ..errors import DataError

_STREAMS = {"train": 0, "val": 1}


class TokenBatches:
    """The last tenth of the tokens is for validation, the rest for training.

    Args:
        tokens: int32 [N].
        context: length T of a window; a target is its window moved on by one.
        batch: windows B in a batch.
    """

    def __init__(self, tokens: np.ndarray, context: int, batch: int, seed: int = 0, val_fraction: float = 0.1) -> None:
        cut = int(len(tokens) * (1 - val_fraction))
        self.parts = {"train": np.asarray(tokens[:cut], np.int32), "val": np.asarray(tokens[cut:], np.int32)}
        self.context, self.batch, self.seed = context, batch, seed
        shortest = min(len(p) for p in self.parts.values())
        if shortest <= context:
            raise DataError(f"[data] the text must give more than {context} tokens (the context) for validation, got "
                            f"{shortest}. Use a longer text or a smaller --context.")

    def get(self, part: str, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Inputs and targets, int32 [B,T] each, of batch number `index` of "train" or "val"."""
        tokens = self.parts[part]
        bits = np.random.Philox(key=[self.seed, _STREAMS[part]], counter=[0, 0, 0, index])
        starts = (bits.random_raw(self.batch) >> np.uint64(32)) * np.uint64(len(tokens) - self.context) >> np.uint64(32)
        windows = tokens[starts.astype(np.int64)[:, None] + np.arange(self.context + 1)]
        return np.ascontiguousarray(windows[:, :-1]), np.ascontiguousarray(windows[:, 1:])
