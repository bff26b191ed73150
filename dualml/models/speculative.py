"""Writing with a draft: a small model writes some tokens ahead, a larger one reads them at once and keeps those that it
could have drawn itself. The text has the larger model's distribution (Leviathan et al. 2023, arXiv 2211.17192)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from .. import functional as F, runtime
from ..array import empty
from ..dtypes import int32
from ..errors import ShapeError
from ..nn.cache import FEW
from ..ops import sampling
from ..ops.speculate import speculated
from ..programs import capture
from ..tensor import Tensor
from .decoding import Decoding
from .generation import TextModel
from .sampling import SamplingOptions


class SpeculativeDecoding:
    """Iterating gives one or more tokens at a time. A round - draft, reading, choice - is one captured program.

    Args:
        draft: a model with the same vocabulary on the same backend.
        ahead: tokens that it writes in a round, from 1 to 7.
    Raises:
        ShapeError: the models do not fit together, or a repetition penalty is asked for, which would have to know of
            tokens that are not there yet.
    """

    def __init__(self, model: TextModel, draft: TextModel, options: SamplingOptions | None = None, seed: int = 0,
                 ahead: int = 4, captured: bool = True) -> None:
        options = options or SamplingOptions()
        sizes = [m.config.vocab_size for m in (model, draft)]
        places = [m.wte.weight._array.backend for m in (model, draft)]
        if sizes[0] != sizes[1] or places[0] is not places[1]:
            raise ShapeError("[speculative] draft must have the model's vocabulary and backend, got "
                             f"{sizes[1]:,} tokens on {places[1].name}, for {sizes[0]:,} on {places[0].name}.")
        if not 1 <= ahead < FEW:
            raise ShapeError(f"[speculative] ahead must be from 1 to {FEW - 1}, got {ahead}.")
        if draft.config.context < ahead + 2:
            raise ShapeError(f"[speculative] draft must have a context of at least ahead + 2 = {ahead + 2} tokens, got "
                             f"{draft.config.context}.")
        if options.repetition_penalty != 1:
            raise ShapeError("[speculative] repetition_penalty must be 1, got "
                             f"{options.repetition_penalty}. Write without a draft to use it.")
        self.ahead, self.rounds, self.taken = ahead, 0, 0
        self.full = Decoding(model, 1, options, seed, captured=captured)
        self.draft = Decoding(draft, 1, options, seed, captured=False)
        self.found = empty((ahead + 2,), int32, places[0])
        self.captured = captured
        self._recapture()

    def _recapture(self) -> None:
        self._run = capture(self._round) if self.captured else self._round

    @property
    def accepted(self) -> float:
        """The part of the drafted tokens that was taken over so far."""
        return self.taken / max(1, self.rounds * self.ahead)

    def read(self, prompt: Sequence[int]) -> None:
        """Begins a text."""
        self.full.read([prompt])

    def _round(self) -> None:
        runtime.replayed(self.full.move_on)
        full, draft, state = self.full, self.draft, self.full.state
        token, tokens, chances = Tensor(full.token), [], []
        for number in range(self.ahead):
            logits = draft.logits(token.reshape(1, 1))
            chances.append(Tensor(sampling.probabilities(logits, draft.settings, draft.seen)))
            token = Tensor(sampling.draw(logits, draft.settings, draft.seen, state, number))
            tokens.append(token)
        draft.model.hidden(token.reshape(1, 1), draft.cache)  # the last one, in case that it is taken over
        drafted = F.cat(tokens)
        read = full.logits(F.cat([Tensor(full.token), drafted]).reshape(1, -1))
        seen = Tensor(full.seen).expand(self.ahead + 1, -1)  # nothing is: there is no penalty
        kept = sampling.probabilities(read, full.settings, seen._array)
        speculated(F.cat(chances)._array, kept, drafted._array, state, full.cache.lengths, draft.cache.lengths,
                   self.ahead, out=self.found)
        full.token.copy_from(Tensor(self.found)[:1]._array)

    def __iter__(self) -> Iterator[list[int]]:
        """The text's next tokens. Where a model's context is full, it reads the text's later half anew; the larger
        model writes the last tokens before that without a draft."""
        full, draft = self.full, self.draft
        for first in full:  # without an end: the first token, and those for which there is no room to draft
            yield first
            while full.cache.length + self.ahead + 1 <= full.context:
                if draft.cache.length + self.ahead + 1 > draft.context or self._behind():
                    seen = min(max(1, draft.context // 2), draft.context - self.ahead - 1)  # a round must fit
                    draft.read([full.texts[0][:-1][-seen:]])
                yield self._next()

    def _behind(self) -> bool:
        """Whether the draft has not read all but the last token."""
        return self.draft.texts[0][-16:] != self.full.texts[0][:-1][-16:]

    def _next(self) -> list[int]:
        """The tokens of one round."""
        sides = (self.full, self.draft)
        lengths = [side.cache.length for side in sides]
        with self.full.quiet(), self.draft.quiet():
            if sum(side.reserve(self.ahead + 1) for side in sides):
                self._recapture()
            self._run()
        new, taken, *drafted = self.found.numpy().tolist()
        self.full.refuse(new)
        kept = [*drafted[:taken], new]
        self.rounds, self.taken = self.rounds + 1, self.taken + taken
        for side, length in zip(sides, lengths, strict=True):
            side.cache.length = length + taken + 1
        self.draft.texts[0].extend([self.full.texts[0][-1], *kept[:-1]])
        self.full.texts[0].extend(kept)
        return kept
