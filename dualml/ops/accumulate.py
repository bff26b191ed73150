"""Adding into memory that is there: gradients that live in an optimizer's arena."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from ..array import Array, run
from ..kernel import Kernel, kernel


@kernel("&total[N] value[N]", groups="cdiv(N, BLOCK * W)", vector="N", software_block=64)
def accumulate(total: Any, value: Any) -> Any:
    """total += value."""
    total += value
    return total


def add_into(total: Array, value: Array) -> None:
    """total += value, in place; both of one size and dtype."""
    run(accumulate, total.reshape(total.size), value.reshape(value.size))


def kernel_cases(rng: np.random.Generator) -> Iterator[tuple[Kernel, tuple[np.ndarray, ...], dict[str, Any]]]:
    """Sample launches: sizes with and without vectors, and over one block."""
    for size in (1, 7, 8, 1028, 1025):
        yield accumulate, (rng.standard_normal(size), rng.standard_normal(size)), {}
