"""Sums over rows that a backward pass makes beside its result, such as a bias's gradient: each workgroup walks over
some of the rows and leaves their sum, and `sum_partials` adds up the workgroups. Rows of a workgroup and the order of
both sums are fixed, so the bits do not depend on which workgroup ends first.
"""

from __future__ import annotations

from typing import Any

from ..kernel import kernel

MAX_GROUPS = 1024  # fills the largest GPU, and leaves few partial sums to add
GROUP_ROWS = 8     # rows for which a workgroup is worth its partial sums


def groups_of(rows: int, most: int = MAX_GROUPS) -> int:
    """How many workgroups share so many rows: of S, workgroup s has rows s, s + S, ..."""
    return max(1, min(most, -(-rows // GROUP_ROWS)))


@kernel("partial:f32[S,P,C] -> first[A,C] second[B,C] | A:u32 B:u32",
        groups="cdiv(P * C, W * min(BLOCK, 8))", software_block=8, static="C P A B", vector="C")
def sum_partials(partial: Any, A: int, B: int) -> Any:
    """Row 0 and row 1 of each workgroup's sums, added up; only those that are wanted (A, B = 1)."""
    total = partial.sum(0)
    return total[:A], total[1:1 + B]

