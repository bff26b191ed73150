"""A conversation with a model that was tuned to chat."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from ..errors import DataError
from ..text import Tokenizer, decode_stream
from ..text.chat import ChatTemplate
from .generation import TextModel
from .sampling import SamplingOptions


class Chat:
    """Answers questions, each with those before it in mind.

    Args:
        model, tokenizer: of a run of `dualml tune`.
        system: a text before the first question, in every prompt.
        max_tokens: of an answer; less where the context leaves less.
    """

    def __init__(self, model: TextModel, tokenizer: Tokenizer, system: str = "", max_tokens: int = 200) -> None:
        if max_tokens < 1:
            raise DataError(f"[chat] max_tokens must be at least 1, got {max_tokens}.")
        self.model, self.tokenizer, self.max_tokens = model, tokenizer, max_tokens
        self._writer = model.writer()  # it has read what was said so far
        self.template = ChatTemplate(tokenizer)
        self._system = self._encode("system", system) if system else np.empty(0, np.int32)
        self._turns: list[np.ndarray] = []  # question and answer each, the oldest first
        self.forgotten = 0  # turns that no longer fit into the context
        self.cut = False    # whether the last answer was at its longest before it ended

    def reset(self) -> None:
        """Forgets the conversation, but not the system's text."""
        self._turns, self.forgotten = [], 0

    def answer(self, question: str, temperature: float = 0.0, top_k: int | None = None, seed: int = 0) -> Iterator[str]:
        """The answer's text as it comes. Question and answer are remembered, as far as the answer was read.

        Args:
            temperature: 0 takes the likeliest token each time, 1 draws from the model's distribution.
        Raises:
            DataError: the tokenizer cannot spell the question, or the context is too short for it.
        """
        asked = np.append(self._encode("user", question), np.int32(self.template.assistant))
        prompt, room = self._fitted(asked)
        options = SamplingOptions(temperature, top_k)
        self.cut, written = True, []

        def tokens() -> Iterator[int]:
            for token in self._writer.write(prompt.tolist(), options, seed):
                if token in self.template.stops:
                    self.cut = False
                    return
                written.append(token)
                yield token
                if len(written) == room:
                    return
        try:
            yield from decode_stream(self.tokenizer, tokens(), skip_special=True)  # type: ignore[arg-type]
        finally:
            self._turns.append(np.array([*asked, *written, self.template.end], np.int32))

    def _encode(self, role: str, text: str) -> np.ndarray:
        return self.template.render([{"role": role, "content": text}])[0]

    def _fitted(self, asked: np.ndarray) -> tuple[np.ndarray, int]:
        """The prompt, without the oldest turns where a third of the context would not be left for the answer, and the
        most tokens that the answer may have."""
        context = self.model.config.context
        free = context - min(self.max_tokens, context // 3) - len(self._system) - len(asked)
        if free < 0:
            raise DataError(f"[chat] the question must have at most {len(asked) + free} tokens, got {len(asked)}: the "
                            f"model's context is {context}, system text and answer included. Ask in fewer words.")
        while sum(map(len, self._turns)) > free:
            del self._turns[0]
            self.forgotten += 1
        prompt = np.concatenate([self._system, *self._turns, asked])
        return prompt, min(self.max_tokens, context - len(prompt))


def answers(model: TextModel, tokenizer: Tokenizer, messages: Iterable[dict[str, str]]
            ) -> Iterator[tuple[str, str, str]]:
    """Of each answer in a conversation: the question, what the answer should be, and what the model gives when it takes
    the likeliest tokens, after the conversation as it should be until there."""
    template, seen = ChatTemplate(tokenizer), list[dict[str, str]]()
    for message in messages:
        if message["role"] == "assistant":
            prompt, wanted = template.prompt(seen), len(template.render([message])[0])
            found: list[int] = []
            for token in model.stream(prompt, temperature=0.0):
                if token in template.stops or len(found) > wanted:
                    break
                found.append(token)
            yield seen[-1]["content"], message["content"], tokenizer.decode(found)
        seen.append(message)
