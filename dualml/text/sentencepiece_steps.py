"""Normalizers, pre-tokenizers and decoders of Hugging Face's format, as far as SentencePiece's models have them."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import regex

from ..errors import DataError
from .pretokenize import flag

MARK = "\u2581"
_LISTS = {"normalizer": "normalizers", "pre_tokenizer": "pretokenizers", "decoder": "decoders"}
_FORMS = ("NFC", "NFD", "NFKC", "NFKD")
_LONGEST = 64  # of a text in a step, and of the steps
Change = Callable[[str], str]


def step_kinds(content: dict[str, Any], part: str) -> set[str]:
    """The types of the steps that a part of a file has."""
    return {step["type"] for step in all_steps(content.get(part), part)}


def normalization(spec: object) -> Change:
    """The function that a normalizer describes."""
    return partial(_all, [change(step) for step in all_steps(spec, "normalizer")])


def change(step: dict[str, Any], more: str = "") -> Change:
    """The function that one step describes. Raises DataError for others.

    Args:
        more: steps that the caller knows besides.
    """
    if step["type"] in _FORMS:
        return partial(unicodedata.normalize, step["type"])
    if step["type"] == "Prepend":
        before = _text(step, "prepend")
        return lambda text: before + text if text else text
    if step["type"] == "Replace":
        return _replace(step)
    raise _unsupported("normalizer", step["type"], f"{more}Prepend, Replace, {', '.join(_FORMS)}, Sequence")


def _replace(step: dict[str, Any]) -> Change:
    pattern, content = step.get("pattern"), _text(step, "content")
    if not isinstance(pattern, dict) or list(pattern) != ["String"]:
        raise DataError(f"[tokenizer] Replace's pattern must be a String, got {shown(pattern)}.")
    sought = _text(pattern, "String")
    if not sought or len(content) > len(sought):  # or a few steps would make any text too large for memory
        raise DataError(f"[tokenizer] Replace's content must not be longer than its pattern, got {content!r} for "
                        f"{sought!r}.")
    return lambda text: text.replace(sought, content)


@dataclass(frozen=True)
class PreTokenization:
    """Text to the pieces that merges stay inside.

    Args:
        mark: what stands for a space.
        spaces: whether spaces are still to be replaced.
        scheme: "always", "first" or "never": which texts get a mark before them.
        pattern: finds the pieces, None for the text as it is.
    """

    mark: str = MARK
    spaces: bool = False
    scheme: str = "never"
    pattern: regex.Pattern[str] | None = None

    @property
    def split(self) -> bool:
        """Whether each mark begins a piece."""
        return self.spaces and self.pattern is not None

    def __call__(self, text: str, first: bool) -> list[str]:
        """Pieces of a text that is not empty.

        Args:
            first: whether it begins where the whole text begins.
        """
        if self.spaces:
            text = text.replace(" ", self.mark)
        if (self.scheme == "always" or (self.scheme == "first" and first)) and not text.startswith(self.mark):
            text = self.mark + text
        return [text] if self.pattern is None else self.pattern.findall(text)


def pre_tokenization(spec: object) -> PreTokenization:
    """What a pre-tokenizer describes: none, Metaspace, or Gemma's Split at spaces."""
    steps = list(all_steps(spec, "pre_tokenizer"))
    if not steps:
        return PreTokenization()
    step = steps[0]
    if len(steps) == 1 and step["type"] == "Metaspace":
        mark, scheme = _metaspace(step)
        split = flag(step, "split", True)
        return PreTokenization(mark, True, scheme, regex.compile(f"{mark}[^{mark}]*|[^{mark}]+") if split else None)
    if len(steps) == 1 and step["type"] == "Split":
        wanted = {"pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False}
        if {name: step.get(name) for name in wanted} != wanted:
            raise DataError(f"[tokenizer] Split must be at ' ' with behavior 'MergedWithPrevious', got "
                            f"{shown(step)}.")
        return PreTokenization(pattern=regex.compile("[^ ]+ ?| "))
    raise _unsupported("pre_tokenizer", " and ".join(s["type"] for s in steps), "Metaspace, Split at spaces, or none")


def _metaspace(step: dict[str, Any]) -> tuple[str, str]:
    """Mark and scheme of a Metaspace step."""
    mark, scheme = step.get("replacement"), step.get("prepend_scheme", "always")
    if not isinstance(mark, str) or len(mark) != 1 or mark.isascii():
        raise DataError(f"[tokenizer] Metaspace's replacement must be one character, not ASCII, such as {MARK!r}, got "
                        f"{shown(mark)}.")
    if scheme not in ("always", "first", "never"):
        raise DataError(f"[tokenizer] Metaspace's prepend_scheme must be always, first or never, got "
                        f"{shown(scheme)}.")
    if not flag(step, "add_prefix_space", True) and scheme != "never":
        raise DataError("[tokenizer] Metaspace's add_prefix_space must be true unless prepend_scheme is never, got "
                        f"false with {scheme!r}.")
    return mark, scheme


@dataclass(frozen=True)
class Decoding:
    """Tokens to text.

    Args:
        spell: changes each token.
        fallback: whether <0xNN> is a byte.
        lead: what is taken off the beginning of a text, if it is there.
    """

    spell: Change
    fallback: bool = False
    lead: bytes = b""


def decoding(spec: object, tokens: Iterable[str]) -> Decoding:
    """What a decoder describes: Replace, ByteFallback, Fuse and Strip in this order, or Metaspace."""
    steps = list(all_steps(spec, "decoder"))
    kinds = [step["type"] for step in steps]
    if kinds == ["Metaspace"]:
        return _metaspace_decoding(steps[0], tokens)
    order = ["Replace", "ByteFallback", "Fuse", "Strip"]
    places = [order.index(kind) for kind in kinds if kind in order]
    once = all(kinds.count(kind) <= 1 for kind in order[1:])
    if not kinds or len(places) < len(kinds) or places != sorted(places) or not once \
            or ("Strip" in kinds and "Fuse" not in kinds):
        raise _unsupported("decoder", " and ".join(kinds) or "none", "a Sequence of Replace, ByteFallback, Fuse and "
                           "Strip in this order, or Metaspace")
    lead = b""
    if kinds[-1] == "Strip":
        wanted = {name: steps[-1].get(name) for name in ("content", "start", "stop")}
        if wanted not in [{"content": " ", "start": start, "stop": 0} for start in (0, 1)]:
            raise DataError(f"[tokenizer] Strip must take one ' ' off the start, got {shown(wanted)}.")
        lead = b" " * wanted["start"]
    changes = [_replace(step) for step in steps if step["type"] == "Replace"]
    return Decoding(partial(_all, changes), "ByteFallback" in kinds, lead)


def _metaspace_decoding(step: dict[str, Any], tokens: Iterable[str]) -> Decoding:
    """It takes all marks off the first token, which is one space off the text where tokens have no other marks."""
    mark, scheme = _metaspace(step)
    if scheme == "never":
        return Decoding(lambda token: token.replace(mark, " "))
    inside = next((token for token in tokens if mark in token[1:] or token.startswith(" ")), None)
    if inside is not None:
        raise DataError(f"[tokenizer] decoder Metaspace is supported where tokens have {mark!r} only as their first "
                        f"character, got {inside[:80]!r}.")
    return Decoding(lambda token: token.replace(mark, " "), lead=b" ")


def shown(value: object) -> str:
    """A value for an error, whatever a file has in its place."""
    try:
        return repr(value)[:120]
    except RecursionError:
        return type(value).__name__


def _all(changes: Sequence[Change], text: str) -> str:
    for change in changes:
        text = change(text)
    return text


def _text(step: dict[str, Any], name: str) -> str:
    value = step.get(name)
    if not isinstance(value, str) or len(value) > _LONGEST:
        raise DataError(f"[tokenizer] {name} must be a text of at most {_LONGEST} characters, got {shown(value)}.")
    return value


def _unsupported(part: str, kind: str, supported: str) -> DataError:
    return DataError(f"[tokenizer] {part} {kind[:80]!r} is not supported for this kind of model. Supported: "
                     f"{supported}.")


def all_steps(spec: object, part: str, depth: int = 0) -> list[dict[str, Any]]:
    """The steps of a part, Sequences resolved."""
    if spec is None:
        return []
    if not isinstance(spec, dict) or not isinstance(spec.get("type"), str) or depth > 8:
        raise DataError(f"[tokenizer] {part} must be an object with a type, Sequences at most 8 deep, got "
                        f"{shown(spec)}.")
    if spec["type"] != "Sequence":
        return [spec]
    inner = spec.get(_LISTS[part])
    if not isinstance(inner, list) or len(inner) > _LONGEST:
        raise DataError(f"[tokenizer] {_LISTS[part]} must be a list of at most {_LONGEST} steps, got "
                        f"{type(inner).__name__}.")
    return [step for one in inner for step in all_steps(one, part, depth + 1)]
