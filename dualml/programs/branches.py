"""Which launches of a program need one another, and which may run side by side.

A launch must come after an earlier one where both use a byte that at least one of them writes. That is looked up in the
memory that the program really uses: temporaries that share a slab stand in each other's way, views of a weight do too.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ..backends.base import Binding

Use = tuple[Binding, bool]  # a stretch of a buffer, and whether it is written


def needs(launches: Iterable[Iterable[Use]]) -> list[list[int]]:
    """For each launch the earlier ones that it must come after, without those that others of them already wait for."""
    memory: dict[int, _Memory] = {}
    before: list[int] = []  # for each launch, all that must run before it: bit i stands for launch i
    found = []
    for index, uses in enumerate(launches):
        own = [(memory.setdefault(id(b.buffer), _Memory()), b.offset, b.offset + b.nbytes, written)
               for b, written in uses if b.nbytes]
        wanted = {other for place, begin, end, written in own for other in place.against(begin, end, written)}
        for place, begin, end, written in own:  # after all were asked: a launch does not wait for itself
            place.add(begin, end, index, written)
        edges, reached = reduced(wanted, before)
        found.append(edges)
        before.append(reached)
    return found


def reduced(wanted: Iterable[int], before: Sequence[int], reached: int = 0) -> tuple[list[int], int]:
    """The latest of `wanted` that bring all others and, as bits, all launches they bring, with those in `reached`."""
    edges = []
    for other in sorted(wanted, reverse=True):
        if not reached >> other & 1:
            edges.append(other)
            reached |= before[other] | 1 << other
    return edges[::-1], reached


class _Memory:
    """Who used which bytes of a buffer, as far as later launches can still meet them."""

    def __init__(self) -> None:
        self.reads: list[tuple[int, int, int]] = []  # begin, end, launch
        self.writes: list[tuple[int, int, int]] = []

    def against(self, begin: int, end: int, written: bool) -> Iterable[int]:
        rivals = self.writes + self.reads if written else self.writes
        return [launch for first, last, launch in rivals if first < end and begin < last]

    def add(self, begin: int, end: int, launch: int, written: bool) -> None:
        """A write stands for those that it covers, for it comes after them."""
        if written:
            self.reads, self.writes = ([u for u in uses if u[0] < begin or end < u[1]]
                                       for uses in (self.reads, self.writes))
        (self.writes if written else self.reads).append((begin, end, launch))
