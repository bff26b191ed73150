"""One token per character: no training, a small vocabulary, and samples that show how much spelling was learned."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError
from .tokenizer import register_tokenizer


class CharTokenizer:
    """Characters numbered in code point order.

    Args:
        characters: the vocabulary, each once.
    """

    def __init__(self, characters: Iterable[str]) -> None:
        self.characters = "".join(sorted(set(characters)))
        if not self.characters:
            raise DataError("[tokenizer] expected at least one character, got an empty vocabulary.")
        self._table = np.full(max(map(ord, self.characters)) + 1, -1, np.int32)  # code point -> token
        self._table[[ord(c) for c in self.characters]] = np.arange(len(self.characters), dtype=np.int32)

    @classmethod
    def from_text(cls, text: str) -> CharTokenizer:
        """A tokenizer that knows exactly the characters of `text`."""
        return cls(text)

    @property
    def vocab_size(self) -> int:
        return len(self.characters)

    def encode(self, text: str) -> np.ndarray:
        """Tokens as int32 [T]. Raises DataError that names the first unknown character and its place."""
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
        found = np.asarray(list(tokens), np.int64)
        if found.size and not (found.min() >= 0 and found.max() < self.vocab_size):
            raise DataError(f"[decode] tokens must be in [0, {self.vocab_size - 1}], got {found.min()} to "
                            f"{found.max()}.")
        return "".join(self.characters[t] for t in found)

    def safe_cut(self, data: bytes) -> int:
        """The last place of UTF-8 text where a character begins: text may be cut anywhere between two."""
        return next((i for i in range(len(data) - 1, 0, -1) if data[i] & 0xC0 != 0x80), 0)

    def to_dict(self) -> dict[str, Any]:
        return {"kind": "char", "characters": self.characters}

    @classmethod
    def from_dict(cls, saved: Mapping[str, Any]) -> CharTokenizer:
        return cls(saved["characters"])

    def save(self, path: str | Path) -> None:
        Path(path).write_text(json.dumps(self.to_dict(), ensure_ascii=False), encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> CharTokenizer:
        return cls.from_dict(json.loads(Path(path).read_text(encoding="utf-8")))

    def _unknown(self, text: str, place: int) -> DataError:
        shown = self.characters if self.vocab_size <= 200 else self.characters[:200] + "..."
        return DataError(f"[encode] text must consist of the {self.vocab_size} characters of the training text, got "
                         f"{text[place]!r} at position {place}. Known: {shown!r}.")


register_tokenizer("char", CharTokenizer.from_dict)
