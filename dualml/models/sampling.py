"""Drawing a token from logits. On the host and in float64, so that every backend draws alike."""

from __future__ import annotations

import numpy as np

from ..errors import ShapeError


def sample_token(logits: np.ndarray, rng: np.random.Generator, temperature: float = 1.0,
                 top_k: int | None = None) -> int:
    """A token from logits [V].

    Args:
        temperature: divides the logits; 0 takes the likeliest token.
        top_k: keeps so many likeliest tokens, more where several tie for the last place.
    """
    if temperature < 0:
        raise ShapeError(f"[sample] temperature must be 0 or more, got {temperature}.")
    if top_k is not None and top_k < 1:
        raise ShapeError(f"[sample] top_k must be at least 1, got {top_k}.")
    scores = logits.astype(np.float64)
    if not np.isfinite(scores).all():
        raise ShapeError("[sample] logits must be finite, got NaN or infinity. The model's weights are not usable.")
    if temperature == 0:
        return int(scores.argmax())
    if top_k is not None and top_k < scores.size:
        scores[scores < np.partition(scores, -top_k)[-top_k]] = -np.inf
    weights = np.exp((scores - scores.max()) / temperature)
    chances = np.cumsum(weights)
    drawn = int(np.searchsorted(chances, rng.random() * chances[-1], side="right"))
    return min(drawn, scores.size - 1)  # the product may round up to the whole
