"""Conversations as tokens: the template that tuning and chatting share.

    system text<|end|><|user|>question<|end|><|assistant|>answer<|end|><|user|>...

A text before the first <|user|> is the system's. What people and models write is encoded with no special token
allowed: a user who types <|assistant|> sends its letters.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from ..errors import DataError
from .added import AddedToken
from .bpe import BPETokenizer
from .char import CharTokenizer
from .tokenizer import Tokenizer
from .tokenizer_json import to_json

USER, ASSISTANT, END = SPECIALS = ("<|user|>", "<|assistant|>", "<|end|>")


class ChatTemplate:
    """Turns messages into tokens. Raises DataError where the tokenizer lacks a token of the template.

    Args:
        tokenizer: one that has the three special tokens, such as `with_chat_tokens` makes.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        special = getattr(tokenizer, "special_tokens", {})
        missing = [name for name in SPECIALS if name not in special]
        if missing:
            raise DataError(f"[chat] the tokenizer must have {' '.join(SPECIALS)}, but {' '.join(missing)} is missing: "
                            "this model was not taught to chat. Teach it with `dualml tune`.")
        self.tokenizer = tokenizer
        self.user, self.assistant, self.end = (int(special[name]) for name in SPECIALS)
        ends = [self.user, self.assistant, self.end, getattr(tokenizer, "end_of_text", None)]
        self.stops = frozenset(token for token in ends if token is not None)

    def render(self, messages: Sequence[Mapping[str, str]]) -> tuple[np.ndarray, np.ndarray]:
        """Tokens int32 [T] of whole messages, and a bool [T] that is true where the assistant wrote: its words and the
        <|end|> after them.

        Args:
            messages: {"role": "system", "user" or "assistant", "content": text}, each.
        """
        parts = [self._message(m["role"], m["content"]) for m in messages]
        ids = [np.empty(0, np.int32), *(part for part, _ in parts)]
        masks = [np.empty(0, bool), *(np.arange(len(part)) >= first for part, first in parts)]
        return np.concatenate(ids), np.concatenate(masks)

    def prompt(self, messages: Sequence[Mapping[str, str]]) -> np.ndarray:
        """Tokens that the assistant's answer follows."""
        return np.append(self.render(messages)[0], np.int32(self.assistant))

    def _message(self, role: str, content: str) -> tuple[np.ndarray, int]:
        """A message's tokens, and from which on the assistant wrote them."""
        if role not in ("system", "user", "assistant"):
            raise DataError(f"[chat] role must be system, user or assistant, got {role!r}.")
        head = {"user": [self.user], "assistant": [self.assistant]}.get(role, [])
        words = self.tokenizer.encode(content, allowed_special=())  # type: ignore[call-arg]
        ids = np.concatenate([head, words, [self.end]]).astype(np.int32)
        return ids, 1 if role == "assistant" else len(ids)


def with_chat_tokens(tokenizer: Tokenizer, texts: Iterable[str] = ()) -> Tokenizer:
    """A tokenizer that has the template's tokens, all other ids as they were; the same one where it has them already.

    Args:
        texts: a character tokenizer learns their characters too, where it does not know them.
    Raises:
        DataError: it is of a kind that cannot be added to.
    """
    if isinstance(tokenizer, CharTokenizer):
        known = {*tokenizer.characters, *tokenizer.added}
        new = [*sorted(set("".join(texts)) - known), *(name for name in SPECIALS if name not in known)]
        return CharTokenizer(tokenizer.characters, [*tokenizer.added, *new]) if new else tokenizer
    if not isinstance(tokenizer, BPETokenizer):
        raise DataError(f"[chat] the tokenizer must be of characters or byte pairs, got {type(tokenizer).__name__}.")
    if all(name in tokenizer.special_tokens for name in SPECIALS):
        return tokenizer
    content, added, new_id = to_json(tokenizer), {t.content: t for t in tokenizer.added}, tokenizer.vocab_size
    for name in SPECIALS:
        known_id = added[name].id if name in added else tokenizer.vocab.get(name)
        added[name] = AddedToken(new_id if known_id is None else known_id, name)
        new_id += known_id is None
    content["added_tokens"] = [dict(vars(token)) for token in added.values()]
    return BPETokenizer.from_dict({"tokenizer": content})
