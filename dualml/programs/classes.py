"""What each buffer of a program is: saving.py tells what the classes mean."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from contextlib import suppress
from typing import TYPE_CHECKING

from ..errors import CheckpointError
from .updates import update_of

if TYPE_CHECKING:
    from .program import Program


def class_of(program: Program, number: int, written: Collection[int], settings: Collection[int]) -> str:
    """The class of a buffer, where launches write to the numbers `written`, and host work to the ids `settings`."""
    recording, buffer = program.recording, program.buffers.get(number)
    if number < 0 or (buffer is not None and number in recording.inputs):
        return "input"
    if buffer is None:
        return "temporary"
    if program.random and buffer is program.random.buffer:
        return "random"
    if id(buffer) in settings:
        return "setting"
    if number in recording.constants:
        return "constant"
    if number in recording.outside:
        return "state" if number in written else "weight"
    return "output" if any(buffer is a.buffer for a in program.outputs) else "kept"


def bytes_by_class(program: Program) -> dict[str, int]:
    """The largest class first."""
    settings = {id(b) for b in program.recording.refreshed}
    for action in program.actions:
        with suppress(CheckpointError):  # other host work, which writes to no buffer
            settings.add(id(update_of(action).array.buffer))
    written = {p.number for item in program.items for p, access in item.accesses() if access != "read"}
    found = Counter(temporary=program.arena_bytes)
    for number, buffer in program.buffers.items():
        found[class_of(program, number, written, settings)] += buffer.nbytes
    return {kind: nbytes for kind, nbytes in found.most_common() if nbytes}
