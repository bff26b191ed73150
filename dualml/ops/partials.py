"""Sums over rows that a backward pass makes beside its result, such as a bias's gradient: each workgroup walks over
some of the rows and leaves their sum, and `sum_partials` adds up the workgroups. Rows of a workgroup and the order of
both sums are fixed, so the bits do not depend on which workgroup ends first.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from ..kernel import Kernel, kernel

MOST_GROUPS = 1024  # fills the largest GPU, and leaves few partial sums to add
GROUP_ROWS = 8      # rows for which a workgroup is worth its partial sums


def groups_of(rows: int, most: int = MOST_GROUPS, each: int = GROUP_ROWS) -> int:
    """How many workgroups share so many rows, `each` or more: of S, workgroup s has rows s, s + S, ..."""
    return max(1, min(most, -(-rows // each)))


@kernel("partial:f32[S,P,C] -> first[A,C] second[B,C] | A:u32 B:u32",
        groups="cdiv(P * C, W * min(BLOCK, 8))", software_block=8, static="C P A B", vector="C")
def sum_partials(partial: Any, A: int, B: int) -> Any:
    """Row 0 and row 1 of each workgroup's sums, added up; only those that are wanted (A, B = 1)."""
    total = partial.sum(0)
    return total[:A], total[1:1 + B]


def kernel_cases(rng: np.random.Generator) -> Iterator[tuple[Kernel, tuple[np.ndarray, ...], dict[str, Any]]]:
    """Sample launches: fewer and more workgroups' sums than threads share a column, one row of them or two."""
    for groups, rows, width in ((3, 1, 12), (100, 2, 7), (300, 1, 520)):
        yield sum_partials, (rng.standard_normal((groups, rows, width)),), {"A": 1, "B": rows - 1}
