"""Tables of cosines and sines for rotary positions, with the ways in which models stretch their context.

Scalings: linear (Chen et al. 2023, arXiv 2306.15595); dynamic NTK, whose base grows with the length; yarn (Peng et al.
2023, arXiv 2309.00071); llama3 (Llama 3.1's, which slows only the slow frequencies). Computed in float64.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..creation import tensor
from ..errors import DataError
from ..tensor import Tensor

SCALINGS = ("default", "linear", "dynamic", "yarn", "llama3")
_NEEDED = {"linear": ("factor",), "dynamic": ("factor",), "yarn": ("factor",),
           "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")}


class Rotary:
    """The angles of a model: head size D, and a setting such as {"rope_type": "linear", "factor": 4.0}.

    Args:
        size: D, even.
        context: positions the model was made for.
        theta: base of the wavelengths.
        scaling: the way its frequencies are scaled, with the names of Hugging Face's config.json.
    """

    def __init__(self, size: int, context: int, theta: float = 10_000.0, scaling: Mapping[str, Any] | None = None
                 ) -> None:
        self.size, self.context, self.theta = size, context, float(theta)
        self.scaling = dict(scaling or {})
        self.kind = self.scaling.get("rope_type", self.scaling.get("type", "default"))
        if self.kind not in SCALINGS:
            raise DataError(f"[rope] rope_type must be one of {', '.join(SCALINGS)}, got {self.kind!r}.")
        for name in _NEEDED.get(self.kind, ()):
            value = self.scaling.get(name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
                raise DataError(f"[rope] {self.kind} scaling needs {name}, a number above 0, got {value!r}.")
        if self.scaling.get("partial_rotary_factor", 1.0) != 1.0:
            raise DataError("[rope] partial_rotary_factor must be 1, got "
                            f"{self.scaling['partial_rotary_factor']!r}: heads are turned whole.")
        self._made: dict[str, tuple[tuple[int, int], Tensor]] = {}

    def table(self, length: int, backend: str) -> Tensor:
        """[S,2,D/2] with S at least `length`, the positions that a pass may reach. Kept until a longer one is asked
        for."""
        first = max(length, self.context) if self.kind == "dynamic" else 0
        rows, known = 1 << max(6, (length - 1).bit_length()), self._made.get(backend)
        if known is None or known[0][0] < rows or known[0][1] != first:
            known = self._made[backend] = ((rows, first), tensor(self.values(rows, first), backend=backend))
        return known[1]

    def values(self, rows: int, first: int = 0) -> np.ndarray:
        """The table as float32. `first` matters to dynamic scaling alone: its base is that of the text's length so far,
        which is `first` for the positions below it and grows by one with each position after."""
        positions = np.arange(rows, dtype=np.float64)[:, None]
        if self.kind == "dynamic":
            lengths = np.maximum(positions + 1, max(first, self.context))
            factor = float(self.scaling["factor"])
            growth = factor * lengths / self.context - (factor - 1)
            base = self.theta * growth ** (self.size / max(1, self.size - 2))
            angles = positions * base ** (-np.arange(0, self.size, 2) / self.size)
            scale = 1.0
        else:
            frequencies, scale = self.frequencies()
            angles = positions * frequencies
        return (np.stack([np.cos(angles), np.sin(angles)], 1) * scale).astype(np.float32)

    def frequencies(self) -> tuple[np.ndarray, float]:
        """Radians per position [D/2], and the factor of all cosines and sines."""
        plain = self.theta ** (-np.arange(0, self.size, 2) / self.size)
        if self.kind == "linear":
            return plain / self.scaling["factor"], 1.0
        if self.kind == "llama3":
            return self._llama3(plain), 1.0
        if self.kind == "yarn":
            return self._yarn(plain)
        return plain, 1.0

    def _llama3(self, plain: np.ndarray) -> np.ndarray:
        """Wavelengths beyond the old context are stretched, short ones stay, and between them it goes over smoothly."""
        get = self.scaling
        turns = get["original_max_position_embeddings"] * plain / (2 * math.pi)  # in the old context
        low, high = get["low_freq_factor"], get["high_freq_factor"]
        if low == high:
            raise DataError(f"[rope] llama3 scaling needs low_freq_factor and high_freq_factor that differ, got {low}.")
        kept: np.ndarray = np.clip((turns - low) / (high - low), 0, 1)
        scaled: np.ndarray = plain * (kept + (1 - kept) / get["factor"])
        return scaled

    def _yarn(self, plain: np.ndarray) -> tuple[np.ndarray, float]:
        """A ramp over the dimensions, from those that turn beta_fast times in the old context to beta_slow times."""
        get, factor = self.scaling, float(self.scaling["factor"])
        old = get.get("original_max_position_embeddings") or self.context

        def dimension(turns: float) -> float:
            return self.size * math.log(old / (turns * 2 * math.pi)) / (2 * math.log(self.theta))

        low, high = dimension(get.get("beta_fast") or 32), dimension(get.get("beta_slow") or 1)
        if get.get("truncate", True):
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, self.size - 1)
        stretched = np.clip((np.arange(self.size // 2) - low) / (high - low if high != low else 0.001), 0, 1)
        return plain * (1 - stretched + stretched / factor), self._temperature(factor)

    def _temperature(self, factor: float) -> float:
        """What yarn multiplies queries and keys by, as its authors found by trying."""
        def scale(by: float) -> float:
            return 0.1 * by * math.log(factor) + 1.0 if factor > 1 else 1.0
        get = self.scaling
        if get.get("attention_factor") is not None:
            return float(get["attention_factor"])
        if get.get("mscale") and get.get("mscale_all_dim"):
            return scale(get["mscale"]) / scale(get["mscale_all_dim"])
        return scale(1.0)
