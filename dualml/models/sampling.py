"""How tokens are drawn from logits; ops/sampling.py does it on the device."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from numbers import Integral, Real

import numpy as np

from ..errors import ShapeError


@dataclass(frozen=True)
class SamplingOptions:
    """How tokens are drawn. The filters act in this order, as in Hugging Face's transformers.

    Args:
        temperature: divides the logits; 0 takes the likeliest token.
        top_k: keeps so many likeliest tokens, more where several tie for the last place.
        top_p: keeps the likeliest tokens that together have this chance.
        min_p: keeps tokens at least so likely, as a part of the likeliest one's chance.
        repetition_penalty: above 1 makes tokens less likely that the text has already.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float = 1.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value, whole = getattr(self, field.name), field.name == "top_k"
            number = isinstance(value, Integral if whole else Real) and not isinstance(value, bool)
            if not number and not (value is None and field.default is None):
                raise ShapeError(f"[sample] {field.name} must be a {'whole ' if whole else ''}number, got {value!r}.")
        for name, wanted, right in (
                ("temperature", "0 or more", 0 <= self.temperature < math.inf),
                ("top_k", "at least 1", self.top_k is None or self.top_k >= 1),
                ("top_p", "above 0 and at most 1", self.top_p is None or 0 < self.top_p <= 1),
                ("min_p", "from 0 to 1", self.min_p is None or 0 <= self.min_p <= 1),
                ("repetition_penalty", "above 0", 0 < self.repetition_penalty < math.inf)):
            if not right:
                raise ShapeError(f"[sample] {name} must be {wanted}, got {getattr(self, name)}.")

    def settings(self) -> np.ndarray:
        """float32 [5], as the kernels read them."""
        return np.array([self.temperature, self.top_k or 0, 1.0 if self.top_p is None else self.top_p,
                         self.min_p or 0.0, self.repetition_penalty], np.float32)
