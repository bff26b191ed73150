"""Where a program's temporaries lie: few buffers, shared by those that are never alive together.

WebGPU does not let one launch read from a buffer and write to it, whatever the parts. So a temporary may join a buffer
only if no launch reads one of its tenants and writes another; two or three buffers are enough for a training step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from .recording import Item


@dataclass
class Temporary:
    """A buffer that lives within the step: `first` and `last` are the launches that use it."""

    number: int
    nbytes: int
    first: int
    last: int
    modes: dict[int, str] = field(default_factory=dict)  # launch to "read" or "write"


@dataclass
class Slab:
    """A shared buffer, its tenants with their offsets, and how each launch uses it."""

    size: int = 0
    tenants: list[tuple[int, Temporary]] = field(default_factory=list)
    modes: dict[int, str] = field(default_factory=dict)

    def admits(self, one: Temporary) -> bool:
        return all(self.modes.get(launch, mode) == mode for launch, mode in one.modes.items())

    def offset(self, one: Temporary, alignment: int) -> int:
        """The lowest place where nothing alive at the same time lies."""
        place = 0
        living = (t for t in self.tenants if t[1].first <= one.last and one.first <= t[1].last)
        for start, other in sorted(living, key=lambda t: t[0]):
            if place + one.nbytes <= start:
                break
            place = max(place, -(-(start + other.nbytes) // alignment) * alignment)
        return place

    def add(self, place: int, one: Temporary) -> None:
        self.tenants.append((place, one))
        self.modes.update(one.modes)
        self.size = max(self.size, place + one.nbytes)


def find_temporaries(items: Sequence[Item], sizes: dict[int, int]) -> list[Temporary]:
    """Lifetimes of the buffers in `sizes` (number to bytes)."""
    found: dict[int, Temporary] = {}
    for index, item in enumerate(items):
        for place, access in item.accesses():
            if place.number in sizes:
                one = found.setdefault(place.number, Temporary(place.number, sizes[place.number], index, index))
                one.last = index
                if one.modes.get(index) != "write":
                    one.modes[index] = "read" if access == "read" else "write"
    return list(found.values())


def pack(temporaries: Sequence[Temporary], alignment: int, limit: int) -> list[Slab]:
    """Slabs of at most `limit` bytes that hold the temporaries, largest first, each where it makes least new room."""
    slabs: list[Slab] = []
    for one in sorted(temporaries, key=lambda t: (-t.nbytes, t.first)):
        choices = []
        for number, slab in enumerate(slabs):
            place = slab.offset(one, alignment)
            if slab.admits(one) and place + one.nbytes <= limit:
                choices.append((max(0, place + one.nbytes - slab.size), number, place))
        _growth, number, place = min(choices, default=(one.nbytes, len(slabs), 0))
        if number == len(slabs):
            slabs.append(Slab())
        slabs[number].add(place, one)
    return slabs
