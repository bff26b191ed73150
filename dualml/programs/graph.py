"""A recorded step as something that can be rewritten: who reads and writes which stretch of which buffer, and when."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from .. import runtime
from ..backends.base import Backend, Buffer
from ..dtypes import DType
from ..kernel import Kernel, Scalar
from .recording import Item, Place, Recording


def overlap(one: Place, two: Place) -> bool:
    """Whether two stretches share bytes."""
    return one.number == two.number and one.offset < two.offset + two.nbytes and two.offset < one.offset + one.nbytes


@dataclass
class Note:
    """What a pass did, or why it did not, for `program.explain()`. `saved` counts launches; what saves none may be done
    all the same."""

    rule: str
    text: str
    saved: int = 0
    done: bool = False


@dataclass
class Graph:
    """The launches of a recording, which passes replace. `constants` are buffers that they add, `notes` tell what they
    did. The recording stays as it is."""

    recording: Recording
    items: list[Item] = field(default_factory=list)
    notes: list[Note] = field(default_factory=list)
    constants: dict[int, Buffer] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.items = list(self.recording.items)
        self.backend: Backend = self.recording.backend
        self._fixed = {*self.recording.outside, *self.recording.inputs, *self.recording.constants,
                       *self.recording.alive()}
        self._next = 1 + max((p.number for item in self.items for p in item.places), default=0)

    # ---- buffers ----

    def is_temporary(self, number: int) -> bool:
        """Whether nothing outside the step sees a buffer, so that it may vanish or lie elsewhere."""
        return number not in self._fixed

    def temporary(self) -> int:
        """The number of a new temporary, whose size follows from its uses."""
        self._next += 1
        return self._next - 1

    def constant(self, values: np.ndarray) -> Place:
        """A buffer with values that never change."""
        buffer = self.backend.alloc(values.nbytes)
        self.backend.write(buffer, 0, values.reshape(-1))
        return self.keep(buffer, values.nbytes)

    def keep(self, buffer: Buffer, nbytes: int) -> Place:
        """The same of a buffer that is there already."""
        number = self.temporary()
        self.constants[number] = buffer
        self._fixed.add(number)
        return Place(number, 0, nbytes)

    # ---- uses ----

    def uses(self, place: Place, begin: int = 0, end: int | None = None,
             without: frozenset[int] = frozenset()) -> Iterator[tuple[int, str]]:
        """Launches in [begin, end) that touch a stretch, with "read", "write" or "update"."""
        for index in range(begin, len(self.items) if end is None else end):
            if index in without:
                continue
            for other, access in self.items[index].accesses():
                if overlap(place, other):
                    yield index, access

    def untouched(self, place: Place, begin: int, end: int, without: frozenset[int] = frozenset()) -> bool:
        """Whether no launch in [begin, end) writes to a stretch."""
        return all(access == "read" for _, access in self.uses(place, begin, end, without))

    def unseen(self, place: Place, begin: int, end: int, without: frozenset[int] = frozenset()) -> bool:
        """Whether no launch in [begin, end) reads or writes it."""
        return next(self.uses(place, begin, end, without), None) is None

    def can_move(self, source: int, target: int, without: frozenset[int] = frozenset()) -> bool:
        """Whether a launch gives the same when it runs right before the launch `target`, which is a later one."""
        return all(self.untouched(place, source + 1, target, without) if access == "read"
                   else self.unseen(place, source + 1, target, without)
                   for place, access in self.items[source].accesses())

    # ---- rewriting ----

    def launch(self, kernel: Kernel, types: Mapping[str, DType], dims: Mapping[str, Scalar], places: Sequence[Place],
               where: str) -> Item:
        """A new launch. `dims` are all dimension names and scalars of the kernel. Inputs that are left out are views of
        any buffer that is read: here the first one's, since the one that they were views of may be written now."""
        reads = [arg.access == "read" for arg in kernel.args]
        first = next((p for p, read in zip(places, reads, strict=True) if read and p.nbytes), places[0])
        places = [Place(first.number, first.offset, 0) if read and not p.nbytes else p
                  for p, read in zip(places, reads, strict=True)]
        spec, program, count = runtime.specialise(self.backend, kernel, tuple(types.items()), dims)
        groups = count(dims)
        values = dict(dims, groups=groups)
        params = np.array(tuple([values[n] for n, _ in kernel.params]), spec.struct).tobytes()
        return Item(tuple(places), where, spec, program, params, groups, dict(dims))

    def replace(self, gone: Sequence[int], new: Mapping[int, Item]) -> None:
        """Drops the launches `gone`, and puts each new one in the place of the launch at its key."""
        dropped = set(gone) - set(new)
        self.items = [new.get(i, item) for i, item in enumerate(self.items) if i not in dropped]

    def note(self, rule: str, text: str, saved: int = 0, *, done: bool = False) -> None:
        self.notes.append(Note(rule, text, saved, done))


def is_kernel(item: Item, *names: str) -> bool:
    """Whether an item launches one of these kernels."""
    return item.spec is not None and item.spec.kernel.name in names


def reads_what_it_writes(item: Item) -> bool:
    """Whether a launch reads from a buffer and writes to it, which WebGPU refuses whatever the parts."""
    uses = [(place.number, access) for place, access in item.accesses() if place.nbytes]
    return not {n for n, how in uses if how == "read"}.isdisjoint({n for n, how in uses if how != "read"})
