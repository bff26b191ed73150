"""Added tokens: texts such as <|endoftext|> that are one token wherever they occur."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import regex

from ..errors import DataError

_SPACES = regex.compile(r"\s*")
WHITE = "\t\n\v\f\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000" + "".join(map(chr, range(0x2000, 0x200B)))
_WORD = regex.compile(r"\w")


@dataclass(frozen=True)
class AddedToken:
    """One added token with the flags of Hugging Face's format."""

    id: int
    content: str
    special: bool = True
    lstrip: bool = False       # takes the white space before it
    rstrip: bool = False       # takes the white space after it
    single_word: bool = False  # not inside a word
    normalized: bool = False   # sought in the normalized text

    @classmethod
    def from_dict(cls, saved: object) -> AddedToken:
        """Raises DataError for a wrong type."""
        if not isinstance(saved, dict):
            raise DataError(f"[tokenizer] added_tokens must be objects, got {str(saved)[:80]!r}.")
        values: dict[str, Any] = {"normalized": not saved.get("special", False)} | {
            name: saved[name] for name in cls.__dataclass_fields__ if name in saved}
        values.setdefault("special", False)
        for name, value in values.items():
            wanted = {"id": int, "content": str}.get(name, bool)
            if type(value) is not wanted:
                raise DataError(f"[tokenizer] {name} of an added token must be {wanted.__name__}, got {value!r}.")
        if not values.get("content") or values.get("id", -1) < 0:
            raise DataError(f"[tokenizer] an added token must have a content and an id from 0, got "
                            f"{str(saved)[:80]!r}.")
        return cls(**values)


class AddedSplitter:
    """Cuts text at added tokens: longest first, as Hugging Face does."""

    def __init__(self, tokens: Iterable[AddedToken]) -> None:
        self._tokens = {token.content: token for token in tokens if token.content}  # a normalizer may leave nothing
        longest = sorted(self._tokens, key=len, reverse=True)
        self._find = regex.compile("|".join(map(regex.escape, longest))) if longest else None

    def __call__(self, text: str) -> Iterator[tuple[str, AddedToken | None]]:
        """Texts in order, each with the token it is, or None where it is plain."""
        done = 0
        for match in self._find.finditer(text) if self._find else ():
            token, (start, stop) = self._tokens[match.group()], match.span()
            if start < done:
                continue
            if token.single_word and (_WORD.match(text[start - 1:start]) or _WORD.match(text[stop:stop + 1])):
                continue
            if token.lstrip:
                start = done + len(text[done:start].rstrip(WHITE)) if start > done else start
            if token.rstrip:
                stop = _SPACES.match(text, stop).end()
            if done < start:
                yield text[done:start], None
            yield text[start:stop], token
            done = stop
        if done < len(text):
            yield text[done:], None


def refuse_special(texts: Sequence[str], taken: Collection[str]) -> None:
    """Raises DataError for a special token without text, named twice, or spelled as a token that there is."""
    for place, text in enumerate(texts):
        if not text or text in texts[:place] or text in taken:
            raise DataError("[tokenizer] special tokens must be texts of their own, each named once, got "
                            f"{text!r}{' again' if text in texts[:place] else ''}. Name it otherwise, such as "
                            f"<|{text or 'name'}|>.")


def choose(tokens: Sequence[AddedToken], allowed: str | Collection[str]) -> tuple[AddedToken, ...]:
    """Those to look for. Raises DataError for a name that is none.

    Args:
        allowed: "all", "none", or the special tokens' texts. Tokens that are not special are always found.
    """
    if allowed == "all":
        return tuple(tokens)
    names = set() if allowed == "none" else {allowed} if isinstance(allowed, str) else set(allowed)
    unknown = names - {token.content for token in tokens if token.special}
    if unknown:
        raise DataError(f"[encode] allowed_special must be 'all', 'none' or names of special tokens, got "
                        f"{sorted(unknown)}. Known: {[t.content for t in tokens if t.special]}.")
    return tuple(t for t in tokens if not t.special or t.content in names)
