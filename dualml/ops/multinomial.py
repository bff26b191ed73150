"""Drawing from given chances, many times from each row.

Chances are counted in units of 2^-30 of their row's sum, in integers, whose running sums are exact: an element of
chance 0 is never drawn, and every backend draws alike. One less likely than half a unit is never drawn either.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from ..array import Array, run
from ..kernel import Kernel, kernel
from ..random import Generator
from .random import random_words

UNITS = 2**30  # a row's running sum, with what rounding adds, is below 2^31


@kernel("running:i32[R,C] state:u32[4] -> out:i32[R,S] | S:u32 offset:u32", groups="cdiv(R*S, BLOCK)",
        software_block=64)
def multinomial_draw(running: Any, state: Any, S: int, offset: int) -> Any:
    """S elements of each row, each drawn with one random word; -1 where all of the row's chances are 0."""
    words = random_words(state, offset, len(running) * S).reshape(len(running), S)
    out = np.full(words.shape, -1, np.int32)
    for row, sums in enumerate(running):
        if sums.size and sums[-1] > 0:
            goals = words[row] * np.uint64(sums[-1]) >> np.uint64(32)
            out[row] = np.searchsorted(sums, goals.astype(np.int32), side="right")
    return out


def draw(running: Array, count: int, generator: Generator) -> Array:
    """`count` independent draws from each row, int32 [R,count].

    Args:
        running: int32 [R,C], running sums of the chances in UNITS.
        generator: gives one random word per draw.
    """
    state, offset = generator.reserve(running.shape[0] * count, running.backend)
    out: Array = run(multinomial_draw, running, state, S=count, offset=offset)
    return out


def kernel_cases(rng: np.random.Generator) -> Iterator[tuple[Kernel, tuple[np.ndarray, ...], dict[str, Any]]]:
    """Sample launches: kernel, inputs and scalars. The base's low word carries on the way."""
    state = np.array([12345, 678, 2**32 - 1, 9], np.uint32)
    for rows, size, count in ((1, 1, 3), (3, 7, 5), (2, 300, 130), (4, 64, 1)):
        units = rng.integers(0, 2**30 // size, (rows, size)) * (rng.random((rows, size)) < 0.5)
        units[0] = 0
        for sums in (np.cumsum(units, 1), np.cumsum(units > 0, 1)):  # of large chances, and of single units
            yield multinomial_draw, (sums.astype(np.int32), state), {"S": count, "offset": 3}
