"""Strings at which a text ends."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ..errors import DataError


def until(pieces: Iterator[str], stops: Sequence[str]) -> Iterator[str]:
    """The pieces of a text up to the first of the stop strings, which is left out. What may be a stop string's
    beginning is held back until the next pieces tell.

    Raises:
        DataError: a stop string is empty.
    """
    if not all(stops):
        raise DataError("[stop] a stop string must not be empty.")
    held = ""
    for piece in pieces:
        held += piece
        ends = [at for at in (held.find(stop) for stop in stops) if at >= 0]
        if ends:
            if min(ends):
                yield held[:min(ends)]
            return
        keep = max((_overlap(held, stop) for stop in stops), default=0)
        if len(held) > keep:
            yield held[:len(held) - keep]
            held = held[len(held) - keep:]
    if held:
        yield held


def _overlap(text: str, stop: str) -> int:
    """How many characters at the end of a text are the beginning of a stop string."""
    return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:n])), 0)
