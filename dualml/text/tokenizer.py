"""What every tokenizer has, and how one is found again from the dict it was saved as."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np

from ..errors import DataError
from ..words import span


@runtime_checkable
class Tokenizer(Protocol):
    """Text to integers in [0, vocab_size) and back. `to_dict` is plain JSON with a "kind" that load_tokenizer knows."""

    @property
    def vocab_size(self) -> int: ...

    def encode(self, text: str) -> np.ndarray: ...

    def decode(self, tokens: Iterable[int]) -> str: ...

    def to_dict(self) -> dict[str, Any]: ...


def checked_text(text: str, fix: str = "") -> str:
    """The text. Raises DataError for a lone surrogate, which has no bytes."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise DataError(f"[encode] text must be Unicode, got the lone surrogate {text[error.start]!r} at position "
                        f"{error.start}.{fix}") from None
    return text


def checked_ids(tokens: Iterable[int], vocab_size: int) -> list[int]:
    """The tokens as a list. Raises DataError for an id outside the vocabulary."""
    ids = np.asarray(tokens if isinstance(tokens, np.ndarray) else list(tokens))
    if ids.size and (ids.dtype.kind not in "iu" or ids.min() < 0 or ids.max() >= vocab_size):
        got = span(ids.min(), ids.max()) if ids.dtype.kind in "iuf" else str(ids.tolist())[:80]
        raise DataError(f"[decode] tokens must be whole numbers in [0, {vocab_size - 1}], got {got}. Is it another "
                        "tokenizer's text?")
    listed: list[int] = ids.ravel().tolist()
    return listed


_KINDS: dict[str, Callable[[Mapping[str, Any]], Tokenizer]] = {}


def register_tokenizer(kind: str, make: Callable[[Mapping[str, Any]], Tokenizer]) -> None:
    """Makes load_tokenizer understand dicts of this kind."""
    _KINDS[kind] = make


def load_tokenizer(saved: Mapping[str, Any]) -> Tokenizer:
    """The tokenizer that `to_dict` described. Raises DataError for a kind this version does not know."""
    kind = saved.get("kind")
    if kind not in _KINDS:
        raise DataError(f"[tokenizer] kind must be one of {', '.join(_KINDS)}, got {kind!r}. The file is damaged or "
                        "from a newer dualml.")
    return _KINDS[kind](saved)
