"""A text model at work: it reads prompts at once, then writes a token of every text at each step, on its device."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from operator import index
from typing import TYPE_CHECKING

import numpy as np

from .. import creation, runtime
from ..array import Array, empty, from_numpy
from ..dtypes import int32, uint32
from ..errors import DTypeError, ShapeError
from ..ops import sampling
from ..programs import capture
from ..random import Generator
from ..tape import no_grad
from ..tensor import Tensor
from .sampling import SamplingOptions

if TYPE_CHECKING:
    from .generation import TextModel


def _numbers(prompt: Sequence[int]) -> list[int]:
    """The tokens of a prompt as Python's integers."""
    try:
        return [index(token) for token in prompt]
    except TypeError:
        raise DTypeError(f"[generate] tokens must be whole numbers, got {prompt!r:.60}. Encode text first: "
                         "model.generate(tokenizer.encode(text), ...).") from None


class Decoding:
    """Iterating gives the next token of every text, B numbers. A step is one captured program: the token drawn is the
    next step's input where it lies, and what comes back to the host is its number alone.

    Args:
        batch: texts that are written at once.
        cache: dtype of keys and values; "int8" needs a quarter of float32's memory.
        captured: False runs every step as Python calls.
    """

    def __init__(self, model: TextModel, batch: int = 1, options: SamplingOptions | None = None, seed: int = 0,
                 cache: str | None = None, captured: bool = True) -> None:
        self.model, self.backend, self.captured = model, model.wte.weight._array.backend, captured
        self.cache = model.make_cache(batch, cache)
        self._parameters = list(model.parameters())
        self._versions: list[int] = []  # of the weights that made what is in the cache
        self.token = empty((batch,), int32, self.backend)  # of each text, drawn but not read yet
        self.seen = from_numpy(np.zeros((batch, model.config.vocab_size), np.uint32), uint32, self.backend)
        self.texts: list[list[int]] = [[] for _ in range(batch)]
        self._draw_by(options or SamplingOptions(), seed)

    def _draw_by(self, options: SamplingOptions, seed: int) -> None:
        """How tokens are drawn from here on."""
        self.settings = from_numpy(options.settings(), backend=self.backend)
        self.generator = Generator(seed)
        self.state = self.generator.state(self.backend)
        self._recapture()

    def _recapture(self) -> None:
        self._step = capture(self._write_one) if self.captured else self._write_one

    @property
    def context(self) -> int:
        return int(self.model.config.context)

    # ---- reading ----

    def read(self, prompts: Sequence[Sequence[int]]) -> None:
        """Begins texts with prompts, of any lengths; of long ones the last `context` tokens are seen. What the cache
        holds of a single text's beginning is not read again."""
        if len(prompts) != len(self.texts) or not all(map(len, prompts)):
            raise ShapeError(f"[generate] tokens must be {len(self.texts)} prompts of at least one token to go on "
                             f"from, got {len(prompts)} of lengths {[len(p) for p in prompts]}.")
        begun = [_numbers(prompt)[-self.context:] for prompt in prompts]
        for token in (t for text in begun for t in text if not 0 <= t < self.model.config.vocab_size):
            raise ShapeError(f"[generate] tokens must be from 0 to {self.model.config.vocab_size - 1}, got {token}.")
        versions = [p._array.buffer.version for p in self._parameters]
        known = self._known(begun[0]) if len(begun) == 1 and versions == self._versions else 0
        self._versions = versions
        self.texts = begun
        self.seen.write(np.zeros(self.seen.shape, np.uint32))
        sampling.mark(self._padded(begun, -1)._array, self.seen)
        self._read(known)

    def _known(self, text: list[int]) -> int:
        """How many tokens the cache and a text begin with alike, less than the text has: its last one must be read."""
        held, limit = self.texts[0][:self.cache.length], len(text) - 1
        return next((i for i, (a, b) in enumerate(zip(held, text, strict=False)) if a != b or i == limit),
                    min(len(held), limit))

    def _padded(self, texts: Sequence[Sequence[int]], filler: int) -> Tensor:
        """int32 [B,T]: texts of different lengths, filled up at their ends."""
        steps = max(map(len, texts))
        rows = np.array([[*text, *[filler] * (steps - len(text))] for text in texts], np.int32)
        return creation.tensor(rows, backend=self.backend.name)

    def _read(self, known: int = 0) -> None:
        """Fills the cache with the texts, after what it knows of them, and draws a token of each."""
        texts = [text[known:] for text in self.texts]
        self.cache.set_lengths([known] * len(texts))
        with self.quiet():
            self.reserve(max(map(len, texts)))
            x = self.model.hidden(self._padded(texts, 0), self.cache)  # [B,T,C]
            self.cache.set_lengths([known + len(text) for text in texts])
            ends = np.array([b * x.shape[1] + len(text) - 1 for b, text in enumerate(texts)], np.int32)
            last = x.reshape(-1, x.shape[2])[creation.tensor(ends, backend=self.backend.name)]
            self._draw(self.model.head(last)._array)

    def reserve(self, steps: int) -> bool:
        """Room for more tokens. Whether the cache had to grow: it lies elsewhere then, and steps are captured anew."""
        grows = self.cache.length + steps > self.cache.capacity
        if grows:
            self.cache.reserve(steps)
            self._recapture()
        return grows

    # ---- writing ----

    def write(self, prompt: Sequence[int], options: SamplingOptions, seed: int = 0) -> Iterator[int]:
        """The tokens of a single text that follow a prompt, without an end. Where it begins as the text before, as a
        conversation does that goes on, only what is new is read."""
        self._draw_by(options, seed)
        self.read([prompt])
        for drawn in self:
            yield drawn[0]

    def _write_one(self) -> None:
        """Reads the token of every text that was drawn last, and draws the next."""
        self._draw(self.logits(Tensor(self.token.reshape(-1, 1))))

    def logits(self, tokens: Tensor) -> Array:
        """[B*T,V] after each of the new tokens [B,T], which join the cache."""
        x = self.model.hidden(tokens, self.cache)  # [B,T,C]
        return self.model.head(x.reshape(-1, x.shape[2]))._array

    def _draw(self, logits: Array) -> None:
        runtime.replayed(self.move_on)
        sampling.draw(logits, self.settings, self.seen, self.state, out=self.token)

    def move_on(self) -> None:
        """New random words, of which a step may use 64 for each text."""
        self.generator.skip(64 * len(self.texts))
        self.generator.rebase()

    @contextmanager
    def quiet(self) -> Iterator[None]:
        """No gradients, no dropout, and this model's backend."""
        training = [module for module in self.model.modules() if module.training]
        self.model.eval()
        try:
            with no_grad(), runtime.use_backend(self.backend.name):
                yield
        finally:
            for module in training:  # each as it was: some may be frozen
                module.training = True

    def step(self) -> None:
        """Reads the last token of every text and draws the next."""
        length = self.cache.length
        with self.quiet():
            self.reserve(1)
            self._step()
        self.cache.length = length + 1  # a replay runs no Python that counts

    def refuse(self, token: int) -> None:
        """Raises ShapeError where a token could not be drawn."""
        if token < 0:
            raise ShapeError("[sample] logits must be finite, got NaN or infinity. The model's weights are not usable.")

    def _take(self) -> list[int]:
        """The token of each text that was drawn last, which joins it."""
        drawn = self.token.numpy()
        self.refuse(int(drawn.min()))
        for text, token in zip(self.texts, drawn.tolist(), strict=True):
            text.append(token)
        tokens: list[int] = drawn.tolist()
        return tokens

    def __iter__(self) -> Iterator[list[int]]:
        """Each text's next token, without an end. When a text fills the context, its later half is read anew, since
        positions cannot slide along in a cache."""
        while True:
            yield self._take()
            if self.cache.length + 1 > self.context:
                half = max(1, self.context // 2)
                self.texts = [text[-half:] if len(text) > self.context else text for text in self.texts]
                self._read()
            else:
                self.step()
