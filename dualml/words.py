"""Numbers in sentences."""

from __future__ import annotations


def counted(count: int, noun: str) -> str:
    """1 step, 2,000 steps."""
    return f"{count:,} {noun}{'s' * (count != 1)}"


def span(low: object, high: object) -> str:
    """3 to 7; 3 where both are."""
    return f"{low}" if low == high else f"{low} to {high}"
