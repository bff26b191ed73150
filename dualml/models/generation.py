"""What every model that writes text has in common: a cache of keys and values, and the tokens that follow a prompt."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np

from .. import nn
from ..errors import ShapeError
from ..tensor import Tensor
from .decoding import Decoding
from .sampling import SamplingOptions

Tokens = Sequence[int] | np.ndarray


class TextModel(nn.Module):
    """What writes text: a model with token table `wte` and `config.context`, that reads tokens into a cache."""

    config: Any
    wte: nn.Embedding

    def make_cache(self, batch: int = 1, dtype: str | None = None) -> nn.KVCache:
        """An empty cache of keys and values, of the weights' dtype or of another, such as "int8"."""
        raise NotImplementedError

    def hidden(self, tokens: Tensor, cache: nn.KVCache | None = None) -> Tensor:
        """What the head reads: int32 [B,T] -> [B,T,C]."""
        raise NotImplementedError

    def head(self, x: Tensor) -> Tensor:
        """Logits of hidden states: [...,C] -> [...,V]."""
        raise NotImplementedError

    def stream(self, tokens: Tokens, temperature: float = 1.0, top_k: int | None = None, seed: int = 0, *,
               top_p: float | None = None, min_p: float | None = None, repetition_penalty: float = 1.0,
               cache: str | None = None) -> Iterator[int]:
        """The tokens that follow, one by one and without an end, drawn on the model's device.

        Args:
            tokens: the prompt, at least one token; of a long one the last `context` are seen.
            temperature: below 1 is more certain, above 1 more varied; 0 always takes the likeliest.
            top_k: draws only among so many likeliest tokens.
            top_p: draws only among the likeliest tokens that together have this chance.
            min_p: draws only tokens at least so likely, as a part of the likeliest one's chance.
            repetition_penalty: above 1 makes tokens less likely that the text has already.
            seed: the same seed draws the same text.
            cache: dtype of the cache of keys and values; "int8" needs a quarter of float32's memory.
        """
        options = SamplingOptions(temperature, top_k, top_p, min_p, repetition_penalty)
        yield from self.writer(cache).write(list(tokens), options, seed)

    def writer(self, cache: str | None = None) -> Decoding:
        """What writes one text after another and keeps the last one's keys and values: see Decoding.write.

        Args:
            cache: their dtype.
        """
        return Decoding(self, cache=cache)

    def generate(self, tokens: Tokens | Sequence[Tokens], max_new_tokens: int, temperature: float = 1.0,
                 top_k: int | None = None, seed: int = 0, *, stop: Collection[int] = (), **options: Any) -> Any:
        """The tokens that follow a prompt: a list of at most max_new_tokens. Of several prompts, which may differ in
        length and are written on together, a list of lists.

        Args:
            stop: tokens at which a text ends. They are not part of it.
            options: as in `stream`, which tells of all others too.
        """
        if max_new_tokens < 0:
            raise ShapeError(f"[generate] max_new_tokens must be 0 or more, got {max_new_tokens}.")
        single = not len(tokens) or np.ndim(tokens[0]) == 0
        prompts: Any = [tokens] if single else tokens
        cache = options.pop("cache", None)
        decoding = Decoding(self, len(prompts), SamplingOptions(temperature, top_k, **options), seed, cache)
        decoding.read(prompts)
        texts: list[list[int]] = [[] for _ in prompts]
        ended = [False] * len(texts)
        for drawn in islice(decoding, max_new_tokens):
            for index, token in enumerate(drawn):
                ended[index] = ended[index] or token in stop
                if not ended[index]:
                    texts[index].append(token)
            if all(ended):
                break
        return texts[0] if single else texts
