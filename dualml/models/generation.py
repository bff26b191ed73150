"""Writing on: the tokens that follow, one by one, from a model with a cache of keys and values."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np

from .. import creation, nn
from ..errors import ShapeError
from ..tape import no_grad
from ..tensor import Tensor
from .sampling import sample_token


class TextModel(nn.Module):
    """What writes text: a model with token table `wte` and `config.context`, that reads tokens into a cache."""

    config: Any
    wte: nn.Embedding

    def make_cache(self, batch: int = 1) -> nn.KVCache:
        """An empty cache of keys and values."""
        raise NotImplementedError

    def hidden(self, tokens: Tensor, cache: nn.KVCache | None = None) -> Tensor:
        """What the head reads: int32 [B,T] -> [B,T,C]."""
        raise NotImplementedError

    def head(self, x: Tensor) -> Tensor:
        """Logits of hidden states: [...,C] -> [...,V]."""
        raise NotImplementedError

    def generate(self, tokens: Sequence[int] | np.ndarray, max_new_tokens: int, temperature: float = 1.0,
                 top_k: int | None = None, seed: int = 0) -> list[int]:
        """The tokens that follow, drawn one by one from the model's distribution.

        Args:
            tokens: the prompt, at least one token; of a long one the last `context` are seen.
            temperature: below 1 is more certain, above 1 more varied; 0 always takes the likeliest.
            top_k: draws only among so many likeliest tokens.
            seed: the same seed draws the same text.
        """
        return list(islice(self.stream(tokens, temperature, top_k, seed), max_new_tokens))

    def stream(self, tokens: Sequence[int] | np.ndarray, temperature: float = 1.0, top_k: int | None = None,
               seed: int = 0) -> Iterator[int]:
        """generate without an end: yields each token as it is drawn. When the context is full, its later half is read
        anew, since positions cannot slide along in a cache."""
        context = self.config.context
        seen = [int(t) for t in tokens][-context:]
        if not seen:
            raise ShapeError("[generate] tokens must hold at least one token to go on from, got none.")
        rng = np.random.Generator(np.random.Philox(key=seed))
        cache, new = self.make_cache(), seen
        while True:
            if cache.length + len(new) > context:
                cache.length, new = 0, seen[-max(1, context // 2):]
            token = sample_token(self._next_logits(new, cache), rng, temperature, top_k)
            new = [token]
            seen = [*seen, token][-context:]
            yield token

    def _next_logits(self, new: Sequence[int], cache: nn.KVCache) -> np.ndarray:
        """Logits [V] after tokens that join those in the cache."""
        was_training = self.training
        self.eval()
        try:
            with no_grad():
                window = creation.tensor(np.array([new], np.int32), backend=self.wte.weight.backend)
                x = self.hidden(window, cache)  # [1,T,C]
                logits: np.ndarray = self.head(x[:, len(new) - 1]).numpy()[0]
                return logits
        finally:
            self.train(was_training)
