"""Beam search: the likeliest text that a few kept alternatives lead to. Deterministic, as Hugging Face's transformers
does it with early stopping: the search ends when as many texts are finished as there are beams."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from .. import functional as F
from ..array import Array, empty
from ..dtypes import float32, int32
from ..errors import ShapeError
from ..ops.index_select import IndexSelect
from ..ops.topk import MAX_K, topk_rows
from ..programs import capture
from ..tensor import Tensor
from .decoding import Decoding
from .generation import TextModel

_NEVER = -1e9  # the score of a beam that is not there yet


@dataclass(frozen=True)
class Beam:
    """A found text: its tokens after the prompt, and its log probability / length ** length_penalty."""

    tokens: list[int]
    score: float


class BeamSearch(Decoding):
    """Beams are texts of a batch. A step gives the host the best continuations, so many that enough are left where
    tokens end texts; it says which beams go on with which tokens, and their caches move on the device."""

    def __init__(self, model: TextModel, beams: int, captured: bool = True) -> None:
        most = min(model.config.vocab_size, MAX_K) // 2
        if not 1 <= beams <= most:
            raise ShapeError(f"[beam_search] beams must be from 1 to {most} for this vocabulary, got {beams}.")
        super().__init__(model, beams, captured=captured)
        self.scores = empty((beams, 1), float32, self.backend)
        self.parents = empty((beams,), int32, self.backend)
        self._choose_among(2 * beams)

    def _recapture(self) -> None:
        super()._recapture()
        self._reorder = capture(self._follow) if self.captured else self._follow

    def _choose_among(self, count: int) -> None:
        """How many continuations a step gives."""
        self.best = empty((1, count), float32, self.backend), empty((1, count), int32, self.backend)
        self._recapture()

    def _make_room(self, stop: Collection[int]) -> None:
        """Lets a step give so many continuations that each beam can go on, whatever ends."""
        beams, vocabulary = len(self.texts), self.model.config.vocab_size
        ends = len({token for token in stop if 0 <= token < vocabulary})
        count = beams * min(max(2, 1 + ends), vocabulary)
        if count > MAX_K:
            raise ShapeError(f"[beam_search] beams * (1 + stop) must be at most {MAX_K}, got {beams} beams and {ends} "
                             "stop tokens.")
        if count != self.best[0].size:
            self._choose_among(count)

    def _draw(self, logits: Array) -> None:
        """In place of drawing: the best continuations of all beams together."""
        chances = F.log_softmax(Tensor(logits).to(float32), -1) + Tensor(self.scores)  # [beams,V]
        for kept, found in zip(self.best, topk_rows(chances.reshape(1, -1)._array, self.best[0].size), strict=True):
            kept.copy_from(found)

    def _follow(self) -> None:
        """Each beam's cache becomes its parent's."""
        for layer in self.cache.layers:
            for block in layer:
                block.copy_from(IndexSelect().forward(block, self.parents, dim=block.ndim - 3))

    def search(self, prompt: Sequence[int], max_new_tokens: int, stop: Collection[int] = (),
               length_penalty: float = 1.0) -> list[Beam]:
        """Finished texts, the best first."""
        beams, vocabulary = len(self.texts), self.model.config.vocab_size
        if len(prompt) + max_new_tokens > self.context:
            raise ShapeError(f"[beam_search] prompt and new tokens must fit into the context of {self.context}, got "
                             f"{len(prompt)} and {max_new_tokens}.")
        self._make_room(stop)
        self.scores.write(np.array([[0.0]] + [[_NEVER]] * (beams - 1), np.float32))
        self.read([prompt] * beams)
        texts: list[list[int]] = [[] for _ in range(beams)]
        finished: list[Beam] = []

        def finish(tokens: list[int], score: float) -> None:
            finished.append(Beam(tokens, score / max(1, len(tokens)) ** length_penalty))

        for number in range(max_new_tokens):
            values, places = (kept.numpy()[0].tolist() for kept in self.best)
            self.refuse(-any(np.isnan(values)))
            chosen: list[tuple[int, int, float]] = []
            for rank, (score, place) in enumerate(zip(values, places, strict=True)):
                parent, token = divmod(place, vocabulary)
                if token in stop or number + 1 == max_new_tokens:
                    if rank < beams:
                        finish([*texts[parent], token], score)
                elif len(chosen) < beams:
                    chosen.append((parent, token, score))
            if len(finished) >= beams or number + 1 == max_new_tokens:
                break
            texts = [[*texts[parent], token] for parent, token, _ in chosen]
            self.texts = [[*prompt, *text] for text in texts]
            self._go_on(*zip(*chosen, strict=True))
        return sorted(finished, key=lambda beam: -beam.score)[:beams]

    def _go_on(self, parents: Sequence[int], tokens: Sequence[int], scores: Sequence[float]) -> None:
        self.token.write(np.array(tokens, np.int32))
        self.scores.write(np.array(scores, np.float32)[:, None])
        if list(parents) != list(range(len(parents))):
            self.parents.write(np.array(parents, np.int32))
            with self.quiet():
                self._reorder()
        self.step()


def beam_search(model: TextModel, prompt: Sequence[int], max_new_tokens: int, beams: int = 4,
                stop: Collection[int] = (), length_penalty: float = 1.0) -> list[Beam]:
    """The best texts that follow a prompt, at most `beams` of them, the best first.

    Args:
        stop: tokens that end a text. They are its last.
        length_penalty: texts compete by log probability / length ** length_penalty: above 0 favours longer ones.
    Raises:
        ShapeError: prompt and new tokens do not fit into the model's context, or there are more beams or stop tokens
            than a step can choose among.
    """
    return BeamSearch(model, beams).search(prompt, max_new_tokens, stop, length_penalty)
