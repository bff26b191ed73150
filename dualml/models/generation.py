"""Writing on: the tokens that follow, one by one, from a model with a cache of keys and values."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np

from .. import creation
from ..errors import ShapeError
from ..nn import KVCache
from ..tape import no_grad
from ..tensor import Tensor
from .sampling import sample_token


class Writer(Protocol):
    """What a model needs to be written with."""

    config: Any
    training: bool
    wte: Any

    def make_cache(self, batch: int = 1) -> KVCache: ...
    def hidden(self, tokens: Tensor, cache: KVCache | None = None) -> Tensor: ...
    def head(self, x: Tensor) -> Tensor: ...
    def train(self, mode: bool = True) -> Any: ...


def write_on(model: Writer, tokens: Sequence[int] | np.ndarray, temperature: float, top_k: int | None,
             seed: int) -> Iterator[int]:
    """Tokens without an end. Of a prompt longer than the context its end is read. When the context is full, its later
    half is read anew, since positions cannot slide along in a cache."""
    context = model.config.context
    seen = [int(t) for t in tokens][-context:]
    if not seen:
        raise ShapeError("[generate] tokens must hold at least one token to go on from, got none.")
    rng = np.random.Generator(np.random.Philox(key=seed))
    cache, new = model.make_cache(), seen
    while True:
        if cache.length + len(new) > context:
            cache.length, new = 0, seen[-max(1, context // 2):]
        token = sample_token(next_logits(model, new, cache), rng, temperature, top_k)
        new = [token]
        seen = [*seen, token][-context:]
        yield token


def next_logits(model: Writer, new: Sequence[int], cache: KVCache) -> np.ndarray:
    """Logits [V] after tokens that join those in the cache."""
    was_training = model.training
    model.train(False)
    try:
        with no_grad():
            window = creation.tensor(np.array([new], np.int32), backend=model.wte.weight.backend)
            x = model.hidden(window, cache)  # [1,T,C]
            logits: np.ndarray = model.head(x[:, len(new) - 1]).numpy()[0]
            return logits
    finally:
        model.train(was_training)
