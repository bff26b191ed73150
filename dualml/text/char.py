"""One token per character: no training, a small vocabulary, and samples that show how much spelling was learned."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError
from .added import AddedSplitter, AddedToken, choose
from .tokenizer import checked_ids, register_tokenizer


class CharTokenizer:
    """Characters numbered in code point order.

    Args:
        characters: the vocabulary, each once.
        added: what joined it later, numbered on from there: more characters, and special tokens such as <|end|>.
    """

    def __init__(self, characters: Iterable[str], added: Sequence[str] = ()) -> None:
        self.characters, self.added = "".join(sorted(set(characters))), tuple(added)
        self._texts = [*self.characters, *self.added]
        if not self._texts:
            raise DataError("[tokenizer] expected at least one character, got an empty vocabulary.")
        if "" in self._texts or len(set(self._texts)) < len(self._texts):
            raise DataError(f"[tokenizer] added must be texts that are no tokens yet, each once, got {self.added}.")
        points = {ord(text): token for token, text in enumerate(self._texts) if len(text) == 1}
        self._table = np.full(max(points, default=0) + 1, -1, np.int32)  # code point -> token
        self._table[list(points)] = list(points.values())
        self._special = tuple(AddedToken(t, text) for t, text in enumerate(self._texts) if len(text) > 1)

    @classmethod
    def from_text(cls, text: str) -> CharTokenizer:
        """A tokenizer that knows exactly the characters of `text`."""
        return cls(text)

    @property
    def vocab_size(self) -> int:
        return len(self._texts)

    @property
    def special_tokens(self) -> dict[str, int]:
        """Ids of the special tokens by text."""
        return {token.content: token.id for token in self._special}

    def encode(self, text: str, allowed_special: str | Collection[str] = "all") -> np.ndarray:
        """Tokens as int32 [T]. Raises DataError that names the first unknown character and its place.

        Args:
            allowed_special: which special tokens the text may contain: "all", "none" (for text of strangers) or names.
        """
        chosen = choose(self._special, allowed_special)
        if not chosen:
            return self._encode(text)
        parts = [self._encode(piece) if token is None else np.array([token.id], np.int32)
                 for piece, token in AddedSplitter(chosen)(text)]
        return np.concatenate([np.empty(0, np.int32), *parts])

    def _encode(self, text: str) -> np.ndarray:
        try:
            points = np.frombuffer(text.encode("utf-32-le"), np.uint32)
        except UnicodeEncodeError as error:
            raise self._unknown(text, error.start) from None
        inside = points < len(self._table)
        tokens = np.where(inside, self._table[np.where(inside, points, 0)], -1).astype(np.int32)
        if tokens.size and tokens.min() < 0:
            raise self._unknown(text, int(tokens.argmin()))
        return tokens

    def decode(self, tokens: Iterable[int]) -> str:
        """Text of tokens. Raises DataError for a token outside the vocabulary."""
        return "".join(self._pieces(tokens))

    def decode_bytes(self, tokens: Iterable[int], skip_special: bool = False) -> bytes:
        """UTF-8 of tokens. Raises DataError for a token outside the vocabulary."""
        pieces = (text for text in self._pieces(tokens) if not skip_special or len(text) == 1)
        return "".join(pieces).encode("utf-8", "surrogatepass")

    def _pieces(self, tokens: Iterable[int]) -> list[str]:
        return [self._texts[t] for t in checked_ids(tokens, self.vocab_size)]

    def safe_cut(self, data: bytes) -> int:
        """The last place of UTF-8 text where a character begins: text may be cut between two, not in special tokens."""
        within = set("".join(token.content for token in self._special).encode())
        return next((i for i in range(len(data) - 1, 0, -1)
                     if data[i] & 0xC0 != 0x80 and data[i - 1] not in within), 0)

    def to_dict(self) -> dict[str, Any]:
        added = {"added": list(self.added)} if self.added else {}
        return {"kind": "char", "characters": self.characters, **added}

    @classmethod
    def from_dict(cls, saved: Mapping[str, Any]) -> CharTokenizer:
        """Raises DataError for what is no such dict."""
        characters, added = saved.get("characters"), saved.get("added", [])
        if not isinstance(characters, str) or not isinstance(added, list | tuple) \
                or not all(isinstance(text, str) for text in added):
            raise DataError(f"[tokenizer] characters must be a text, and added a list of texts, got "
                            f"{str(characters)[:40]!r} and {str(added)[:40]!r}.")
        return cls(characters, added)

    def save(self, path: str | Path) -> None:
        """Writes to_dict as JSON, whole or not at all."""
        from .tokenizer_json import write
        write(self.to_dict(), Path(path))

    @classmethod
    def load(cls, path: str | Path) -> CharTokenizer:
        """Reads what save wrote. Raises DataError for a damaged file, or one of another kind."""
        from .tokenizer_json import as_object, read
        saved = as_object(read(Path(path)), "a tokenizer of characters")
        if saved.get("kind") != "char":
            raise DataError(f"[tokenizer] {path} must be of kind 'char', got {str(saved.get('kind'))[:40]!r}.")
        return cls.from_dict(saved)

    def _unknown(self, text: str, place: int) -> DataError:
        known = "".join(self._texts)
        shown = known if len(known) <= 200 else known[:200] + "..."
        return DataError(f"[encode] text must consist of the {self.vocab_size} characters of the training text, got "
                         f"{text[place]!r} at position {place}. Known: {shown!r}.")


register_tokenizer("char", CharTokenizer.from_dict)
