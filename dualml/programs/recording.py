"""What one call of a step did to the device: launches and copies in order, on numbered buffers.

Buffers are numbered by first appearance, so that two recordings of one step can be compared though each allocated its
own. Temporaries are not kept alive: those that are gone at the end of the call are the step's own business.
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from .. import runtime
from ..backends.base import Backend, Binding, Buffer
from ..errors import CaptureError
from ..kernel import Scalar, Spec
from ..nn.module import Told
from .costs import moved
from .parameters import Uses

Conditions = dict[object, tuple[Callable[[], object], object]]
_PACKAGE = str(Path(__file__).resolve().parents[1])


@dataclass(frozen=True, slots=True)
class Place:
    """A stretch of a numbered buffer, in bytes."""

    number: int
    offset: int
    nbytes: int


@dataclass(slots=True)
class Item:
    """A launch, or a copy from its first place to its second where `spec` is None."""

    places: tuple[Place, ...]
    where: str
    spec: Spec | None = None
    program: Any = None
    params: bytes = b""
    groups: int = 0
    dims: Mapping[str, Scalar] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.spec.kernel.name if self.spec else "copy"

    @property
    def moved_bytes(self) -> int:
        if self.spec is None:
            return 2 * self.places[0].nbytes
        return moved(self.spec, self.dims, [((p.number, p.offset), p.nbytes) for p in self.places])

    def accesses(self) -> Iterator[tuple[Place, str]]:
        """Each place with "read", "write" or "update"."""
        for index, place in enumerate(self.places):
            if self.spec is None:
                yield place, ("read", "write")[index]
            else:
                yield place, {"read": "read", "write": "write"}.get(self.spec.kernel.args[index].access, "update")


def user_line() -> str:
    """File and line of the code outside dualml that is running."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_PACKAGE):
        frame = frame.f_back
    return f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}"


class Recording:
    """A Recorder of one call. `inputs` are the call's tensor arguments' buffers."""

    def __init__(self, name: str, backend: Backend, inputs: Sequence[Buffer]) -> None:
        self.name, self.backend = name, backend
        self.items: list[Item] = []
        self.actions: list[Callable[[], None]] = []
        self.conditions: Conditions = {}  # what the step asked, and was told
        self._counted: Conditions = {}    # those of which changes are counted
        self._changes = -1  # their number when all was as the step had found it
        self.outside: dict[int, Buffer] = {}              # buffers that were there before
        self.inside: dict[int, weakref.ref[Buffer]] = {}  # those made by the call
        self.constants: dict[int, tuple[Buffer, bytes]] = {}  # made by the call from host values
        self.inputs: dict[int, int] = {}                  # number to argument
        self._numbers: weakref.WeakKeyDictionary[Buffer, int] = weakref.WeakKeyDictionary()
        self._next = 0
        self._acting = False
        self._placed: list[Buffer] = []  # those from outside in which parameters may lie
        self.refreshed: weakref.WeakSet[Buffer] = weakref.WeakSet()  # settings, written by host work
        self.uses = Uses()
        for index, buffer in enumerate(inputs):
            self.inputs.setdefault(self.number(buffer), index)

    def number(self, buffer: Buffer) -> int:
        """A buffer's number; one that was not allocated here was there before."""
        found = self._numbers.get(buffer)
        if found is None:
            found = self._numbers[buffer] = self._next
            self._next += 1
            self.outside[found] = buffer
            if not buffer.moved:
                self._placed.append(buffer)
        return found

    # ---- what the device is asked for ----

    def allocated(self, buffer: Buffer) -> None:
        if not self._acting:
            number = self._numbers[buffer] = self._next
            self._next += 1
            self.inside[number] = weakref.ref(buffer)

    def launched(self, record: runtime.Launch) -> None:
        where = user_line()
        if record.backend is not self.backend:
            raise CaptureError(f"[capture] {self.name} runs on {self.backend.name}, but {record.spec.kernel.name} ran "
                               f"on {record.backend.name} ({where}). Capture what runs on one backend.")
        if self._acting:
            raise CaptureError(f"[capture] {record.spec.kernel.name} was launched by host work that replays repeat "
                               f"({where}). Launch it from the step itself.")
        places = tuple([self._place(b) for b in record.bindings])
        self.items.append(Item(places, where, record.spec, record.program, record.params, record.groups, record.dims))
        self._check_inputs(self.items[-1])

    def copied(self, source: Binding, target: Binding) -> None:
        self.items.append(Item((self._place(source), self._place(target)), user_line()))
        self._check_inputs(self.items[-1])

    def _place(self, bound: Binding) -> Place:
        return Place(self.number(bound.buffer), bound.offset, bound.nbytes)

    def _check_inputs(self, item: Item) -> None:
        for place, access in item.accesses():
            if access == "read":
                continue
            if place.number in self.inputs:
                raise CaptureError(f"[capture] {self.name} changes its argument {self.inputs[place.number]} in place "
                                   f"({item.name}, {item.where}). A replay works on a copy of it. Let the step use the "
                                   "tensor from outside instead of taking it as an argument.")
            if place.number in self.constants:
                raise CaptureError(f"[capture] {self.name} changes a tensor in place that it makes from host values "
                                   f"({item.name}, {item.where}). Make it by dm.zeros or dm.full, or outside the step.")

    def written(self, buffer: Buffer, offset: int, data: np.ndarray) -> None:
        if self._acting:
            if buffer in self.refreshed:
                raise CaptureError(f"[capture] {self.name} sets one device value twice in a call, such as by two steps "
                                   f"of one optimizer ({user_line()}). Capture each on its own.")
            self.refreshed.add(buffer)
            return
        number = self.number(buffer)
        if number not in self.inside or offset or data.nbytes > buffer.nbytes:
            raise CaptureError(f"[capture] {self.name} writes host values to a tensor from outside ({user_line()}), "
                               "which a replay would not repeat. Pass them as an argument.")
        self.constants[number] = buffer, data.tobytes()

    def read(self, buffer: Buffer) -> None:
        if not self._acting:
            raise CaptureError(f"[capture] {self.name} reads a value from the device ({user_line()}): item(), numpy(), "
                               f"print or an if on a tensor{self._last()}. A replay has no such moment. Return the "
                               "tensor and read it outside.")

    def _last(self) -> str:
        return f", after launch {len(self.items) - 1}, {self.items[-1].name}" if self.items else ""

    def acted(self, action: Callable[[], None]) -> None:
        self.actions.append(action)
        self._acting = True
        try:
            action()
        finally:
            self._acting = False

    def relied(self, key: object, read: Callable[[], object], value: object, told: bool) -> None:
        conditions = self._counted if told else self.conditions
        if conditions.setdefault(key, (read, value))[1] != value:
            raise CaptureError(f"[capture] {self.name} changes a setting that it works by, such as a module's mode, "
                               f"between two uses ({user_line()}). Change it outside the step.")

    def used(self, owner: Any, attribute: Any, change: bool) -> None:
        number = self._numbers.get(owner._array.buffer)
        if not self._acting and (number is None or (number in self.outside and number not in self.inputs)):
            self.uses.note(owner, attribute, change)

    @property
    def stale(self) -> bool:
        """Whether a parameter has been moved since that the step found where it was."""
        return any(buffer.moved for buffer in self._placed)

    def holds(self) -> bool:
        """Whether the step would be told the same again, and find all where it was."""
        changes = Told.changes  # before looking: another thread may change something meanwhile
        if self.stale or not _hold(self.conditions):
            return False
        if self._changes != changes:
            if not _hold(self._counted):
                return False
            self._changes = changes
        return True

    # ---- when the call is over ----

    def alive(self) -> dict[int, Buffer]:
        """Buffers made by the call that something still refers to."""
        found = ((n, ref()) for n, ref in self.inside.items())
        return {n: buffer for n, buffer in found if buffer is not None and n not in self.constants}


def _hold(conditions: Conditions) -> bool:
    return all(read() == value for read, value in conditions.values())


def _scalars(item: Item) -> dict[str, Any]:
    assert item.spec is not None
    fields = np.frombuffer(item.params, item.spec.struct)[0]
    return {n: fields[n].item() for n in item.spec.struct.names or ()}


def _difference(index: int, one: Item, two: Item, first: Recording, second: Recording) -> str:
    """How two launches at one place differ; "" where they agree."""
    here = f"launch {index}, {two.name} ({two.where})"
    if one.program is not two.program or one.name != two.name:
        return f"launch {index} was {one.name} ({one.where}), then {two.name} ({two.where})"
    if one.params != two.params or one.groups != two.groups:
        before, after = _scalars(one), _scalars(two)
        changed = "; ".join(f"{n} was {before[n]}, then {after[n]}" for n in before if before[n] != after[n])
        return f"{here}: {changed}"
    if one.places != two.places:
        return f"{here} used other buffers, or other parts of them"
    for place in two.places:
        number = place.number
        if first.inputs.get(number) != second.inputs.get(number) \
                or (number in first.inside) != (number in second.inside):
            return f"{here} used a tensor that was not there before the first call"
        if number not in second.inputs and first.outside.get(number) is not second.outside.get(number):
            return f"{here} used another tensor from outside"
        if first.constants.get(number, (None, b""))[1] != second.constants.get(number, (None, b""))[1]:
            return f"{here} used other values from the host"
    return ""


def difference(first: Recording, second: Recording) -> str:
    """Where two recordings of a step part, in words; "" where they agree."""
    for index, (one, two) in enumerate(zip(first.items, second.items, strict=False)):
        found = _difference(index, one, two, first, second)
        if found:
            return found
    if len(first.items) != len(second.items):
        return f"the first had {len(first.items)} launches, the second {len(second.items)}"
    return ""
