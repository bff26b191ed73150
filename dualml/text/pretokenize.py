"""Pre-tokenizers of Hugging Face's format, as far as byte-level BPE has them: Split, Digits, ByteLevel, Sequence."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import regex

from ..errors import DataError
from .patterns import GPT2, KNOWN

Stage = Callable[[str], list[str]]


def byte_level(prefix_space: bool = False, use_regex: bool = True) -> dict[str, Any]:
    """The description of a ByteLevel pre-tokenizer."""
    return {"type": "ByteLevel", "add_prefix_space": prefix_space, "trim_offsets": True, "use_regex": use_regex}


def describe(pattern: str, prefix_space: bool = False) -> dict[str, Any]:
    """The description of a pre-tokenizer that splits by `pattern`."""
    if pattern == GPT2:
        return byte_level(prefix_space)
    if prefix_space:
        raise DataError("[tokenizer] add_prefix_space goes with the gpt2 pattern only, got another pattern.")
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    return {"type": "Sequence", "pretokenizers": [split, byte_level(use_regex=False)]}


class PreTokenizer:
    """Text to words, as a tokenizer.json describes it. Raises DataError that names what it cannot do.

    `prefix_space` and `chunked` say how a text may be treated as a whole: a space goes before it; it may be cut by
    text.chunks first.
    """

    def __init__(self, spec: object) -> None:
        self.spec = spec
        steps = list(_flatten(spec))
        kinds = [step["type"] for step in steps]
        if "ByteLevel" not in kinds or kinds.index("ByteLevel") != len(kinds) - 1:
            raise DataError(f"[tokenizer] pre_tokenizer must end with one ByteLevel step, got {kinds or 'none'}. "
                            "Only byte-level BPE is supported.")
        self.prefix_space = kinds == ["ByteLevel"] and flag(steps[0], "add_prefix_space", True)
        self._stages = [stage for i, step in enumerate(steps) for stage in _stages(step, first=len(steps) == 1)]
        self.chunked = _chunked(steps)

    def words(self, text: str) -> list[str]:
        """The words of a text; a space before it is the caller's."""
        pieces = [text] if text else []
        for stage in self._stages:
            pieces = stage(pieces[0]) if len(pieces) == 1 else [word for piece in pieces for word in stage(piece)]
        return pieces


def flag(step: dict[str, Any], name: str, default: bool) -> bool:
    """A true-or-false field of a tokenizer.json."""
    value = step.get(name, default)
    if not isinstance(value, bool):
        raise DataError(f"[tokenizer] {name} must be true or false, got {value!r}. The file is damaged.")
    return value


def _flatten(spec: object, depth: int = 0) -> Iterable[dict[str, Any]]:
    if spec is None:
        return
    if not isinstance(spec, dict) or not isinstance(spec.get("type"), str) or depth > 8:
        raise DataError(f"[tokenizer] pre_tokenizer must be an object with a type, got {str(spec)[:80]!r}.")
    if spec["type"] != "Sequence":
        yield spec
        return
    inner = spec.get("pretokenizers")
    if not isinstance(inner, list):
        raise DataError(f"[tokenizer] pretokenizers must be a list, got {type(inner).__name__}.")
    for step in inner:
        yield from _flatten(step, depth + 1)


def _stages(step: dict[str, Any], first: bool) -> Iterable[Stage]:
    kind = step["type"]
    if kind == "ByteLevel":
        if flag(step, "add_prefix_space", True) and not first:
            yield lambda piece: [piece if piece.startswith(" ") else " " + piece]
        if flag(step, "use_regex", True):
            yield regex.compile(GPT2).findall
    elif kind == "Digits":
        one = flag(step, "individual_digits", False)
        yield _isolate(regex.compile(r"\p{N}" if one else r"\p{N}+"))
    elif kind == "Split":
        yield _split(step)
    else:
        raise DataError(f"[tokenizer] pre_tokenizer {kind!r} is not supported. Supported: ByteLevel, Split, Digits, "
                        "Sequence.")


def _split(step: dict[str, Any]) -> Stage:
    pattern, behavior, invert = step.get("pattern"), step.get("behavior"), flag(step, "invert", False)
    if not isinstance(pattern, dict) or len(pattern) != 1 or not {*pattern} <= {"Regex", "String"}:
        raise DataError(f"[tokenizer] Split's pattern must be a Regex or a String, got {str(pattern)[:80]!r}.")
    source = next(iter(pattern.values()))
    if not isinstance(source, str) or not source:
        raise DataError(f"[tokenizer] Split's pattern must be a text, got {source!r}.")
    try:
        compiled = regex.compile(source if "Regex" in pattern else regex.escape(source))
    except (regex.error, RecursionError, OverflowError) as error:
        raise DataError(f"[tokenizer] Split's pattern {source[:80]!r} is no regular expression: {error}.") from None
    if behavior == "Removed" and invert:
        return lambda text: [m.group() for m in compiled.finditer(text) if m.group()]
    if behavior != "Isolated":
        raise DataError(f"[tokenizer] Split with behavior {behavior!r} and invert {invert} is not supported. "
                        "Supported: Isolated, or Removed with invert.")
    if source in KNOWN:
        found: Stage = compiled.findall
        return found
    return _isolate(compiled)


def _isolate(pattern: regex.Pattern[str]) -> Stage:
    """Matches and what is between them, all kept."""
    def cut(text: str) -> list[str]:
        words, end = [], 0
        for match in pattern.finditer(text):
            words += [text[end:match.start()], match.group()]
            end = match.end()
        return [word for word in [*words, text[end:]] if word]
    return cut


def _chunked(steps: list[dict[str, Any]]) -> bool:
    """Whether the words are those of a known pattern, alone or after SmolLM's Digits."""
    *early, last = steps
    if early and flag(last, "add_prefix_space", True):
        return False
    if flag(last, "use_regex", True):
        return not early or [step["type"] for step in early] == ["Digits"]
    if len(early) != 1 or early[0]["type"] != "Split":
        return False
    return early[0]["pattern"].get("Regex") in KNOWN
