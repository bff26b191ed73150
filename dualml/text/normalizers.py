"""Normalizers of Hugging Face's format for byte-level BPE: what is done to a text before it is cut into words."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from functools import partial
from typing import Any

from .added import WHITE
from .pretokenize import flag
from .sentencepiece_steps import all_steps, change

Change = Callable[[str], str]


def normalization(spec: object) -> Change | None:
    """The function that a normalizer describes, None for none. Raises DataError for steps that are not supported."""
    changes = [_change(step) for step in all_steps(spec, "normalizer")]
    return partial(_all, changes) if changes else None


def _all(changes: list[Change], text: str) -> str:
    for one in changes:
        text = one(text)
    return text


def _change(step: dict[str, Any]) -> Change:
    if step["type"] == "Lowercase":
        return _lower
    if step["type"] == "StripAccents":
        return lambda text: "".join(c for c in text if not unicodedata.category(c).startswith("M"))
    if step["type"] == "Strip":
        left, right = flag(step, "strip_left", True), flag(step, "strip_right", True)
        return partial(_strip, left, right)
    return change(step, "Lowercase, StripAccents, Strip, ")


def _lower(text: str) -> str:
    """Each character by itself: Python's own makes another letter of a Σ that ends a word."""
    return text.lower() if "Σ" not in text else "Σ".lower().join(map(str.lower, text.split("Σ")))


def _strip(left: bool, right: bool, text: str) -> str:
    text = text.lstrip(WHITE) if left else text
    return text.rstrip(WHITE) if right else text
