"""A Program as a folder that needs no Python model: what is launched, and the values it starts from.

    program.json         kernels, buffers, launches, inputs, outputs, host work; in elements, so for any backend
    tensors.safetensors  values of weights, state, settings and constants, under the numbers of their buffers

Classes of buffers: `weight` is read and there before, `state` is changed too (trained weights are), `setting` is
rewritten by host work before every call, `random` holds the generator's state, `constant` comes from host values in
the step, `input` and `output` are the step's, `kept` is left behind, `temporary` is free between calls.
"""

from __future__ import annotations

import math
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..array import Array
from ..dtypes import DType, uint32
from ..errors import CheckpointError
from ..kernel import Kernel
from ..safe_files import flush, save_tensors, sha256, write_json, writing
from .classes import class_of
from .naming import describe_kernel
from .plan import Slab, Temporary, find_temporaries, pack
from .recording import Item, Place
from .updates import Update, update_of

if TYPE_CHECKING:
    from .program import Program

FORMAT = 3  # 1: before rows of a cross entropy could be longer than its classes are many; 2: before sum_partials
FILE, TENSORS = "program.json", "tensors.safetensors"
STORED = ("weight", "state", "setting", "constant")
ALIGNMENT, ARENA_LIMIT = 256, 128 << 20  # of a browser
_FIX = "Free some space, or choose another folder."


def save_program(program: Program, path: str | os.PathLike[str]) -> None:
    """Writes a program into the folder `path`, whole or not at all; a program that is there is replaced.

    Raises:
        CheckpointError: the step does what no file can hold (a schedule, a kernel of your own), or the disk is full.
    """
    target = Path(path)
    if target.exists() and not (target / FILE).is_file() and (not target.is_dir() or any(target.iterdir())):
        raise CheckpointError(f"[program] {target} must be a new folder, or one of a program. Choose another name.")
    described, values = _Description(program).whole()
    partial, old = (target.with_name(f"{target.name}.{os.getpid()}.{end}") for end in ("partial", "old"))
    with writing(target, _FIX):
        partial.mkdir(parents=True)
        try:
            save_tensors(partial / TENSORS, values)
            write_json(partial / FILE, described | {"tensors": sha256(partial / TENSORS)})
            flush(partial)
            if target.exists():
                os.replace(target, old)
            os.replace(partial, target)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
            shutil.rmtree(old, ignore_errors=True)


class _Description:
    """Gathers what a program's file says. Buffers get new numbers, by first use."""

    def __init__(self, program: Program) -> None:
        self.program, self.recording, self.backend = program, program.recording, program.backend
        self.updates = [update_of(action) for action in self.recording.actions]
        self.numbers: dict[int, int] = {}
        self.kernels: dict[Kernel, int] = {}
        self.known = {id(buffer): n for n, buffer in program.buffers.items()}
        self.arguments = {n: i for n, i in self.recording.inputs.items() if n in program.buffers}
        self.dtypes = _dtypes(program)
        self.written = {p.number for item in self.recording.items for p, access in item.accesses() if access != "read"}
        self.settings = {id(update.array.buffer) for update in self.updates}
        self.extents: dict[int, int] = {}  # bytes of the temporaries
        for place in (p for item in self.recording.items for p in item.places):
            self.extents[place.number] = max(self.extents.get(place.number, 0), place.offset + place.nbytes)

    def whole(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """The JSON object, but for the hash of the other file, and the values."""
        launches = [self._launch(item) for item in self.recording.items]
        unread = {i: -1 - i for i in range(len(self.program.arguments))}  # arguments that no launch reads
        by_argument = unread | {i: n for n, i in self.arguments.items()}
        inputs = [{"buffer": self._buffer(by_argument[i]), "shape": list(a.shape)}
                  for i, a in enumerate(self.program.arguments)]
        outputs = [{"buffer": self._buffer(self.known[id(a.buffer)]), "offset": a.offset, "shape": list(a.shape)}
                   for a in self.program.outputs]
        updates = [u.describe() | {"buffer": self._buffer(self._of_update(u))} for u in self.updates]
        random = {"words": self.program.words, **self.program.generator.get_state(), "buffer": self._random()}
        buffers = [self._entry(old) for old in self.numbers]
        values = {str(new): self._values(old) for old, new in self.numbers.items() if self._class(old) in STORED}
        return {"format": FORMAT, "name": self.program.name, "kernels": [describe_kernel(k) for k in self.kernels],
                "buffers": buffers, "inputs": inputs, "outputs": outputs, "returns": describe(self.program.structure),
                "updates": updates, "random": random, "launches": launches,
                "arenas": self._arenas(buffers)}, values

    def _of_update(self, update: Update) -> int:
        number = self.known.get(id(update.array.buffer))
        if number is None:
            raise CheckpointError("[program] the optimizer's settings moved since the step was captured. Capture anew.")
        return number

    def _random(self) -> int | None:
        """The number of the buffer with the generator's state, where the step draws numbers."""
        number = self.known.get(id(self.program.random.buffer)) if self.program.random else None
        return self.numbers.get(number) if number is not None else None

    def _buffer(self, old: int) -> int:
        return self.numbers.setdefault(old, len(self.numbers))

    def _size(self, old: int, nbytes: int) -> int:
        """Elements in so many bytes."""
        return nbytes // self.backend.storage(self.dtypes[old]).itemsize

    def _launch(self, item: Item) -> dict[str, Any]:
        buffers = [[self._buffer(p.number), self._size(p.number, p.offset), self._size(p.number, p.nbytes)]
                   for p in item.places]
        if item.spec is None:
            return {"copy": buffers, "line": item.where}
        kernel = item.spec.kernel
        return {"kernel": self.kernels.setdefault(kernel, len(self.kernels)), "buffers": buffers,
                "types": {letter: dtype.name for letter, dtype in item.spec.types},
                "dims": {n: _number(kernel, n, v) for n, v in item.dims.items()}, "line": item.where}

    def _class(self, old: int) -> str:
        return class_of(self.program, old, self.written, self.settings)

    def _entry(self, old: int) -> dict[str, Any]:
        if old < 0:
            argument = self.program.arguments[-1 - old]
            return {"class": "input", "dtype": argument.dtype.name, "size": argument.size}
        buffer = self.program.buffers.get(old)
        nbytes = buffer.nbytes if buffer is not None else self.extents[old]
        return {"class": self._class(old), "dtype": self.dtypes[old].name, "size": self._size(old, nbytes)}

    def _values(self, old: int) -> np.ndarray:
        buffer, dtype = self.program.buffers[old], self.dtypes[old]
        return Array(buffer, (self._size(old, buffer.nbytes),), dtype).numpy()

    def _arenas(self, buffers: list[dict[str, Any]]) -> dict[str, Any]:
        """Where temporaries can lie in few buffers, in bytes of a GPU's storage."""
        itemsizes = {old: self.dtypes[old].device.itemsize for old in self.dtypes}
        items = [replace(item, places=tuple(self._moved(p, itemsizes[p.number]) for p in item.places))
                 for item in self.recording.items]
        slabs = pack_temporaries(items, {n: e["size"] * itemsizes[old] for (old, n), e in
                                         zip(self.numbers.items(), buffers, strict=True) if e["class"] == "temporary"})
        return {"sizes": [s.size for s in slabs],
                "places": {str(t.number): [i, at] for i, s in enumerate(slabs) for at, t in s.tenants}}

    def _moved(self, place: Place, itemsize: int) -> Place:
        return Place(self.numbers[place.number], self._size(place.number, place.offset) * itemsize,
                     self._size(place.number, place.nbytes) * itemsize)


def pack_temporaries(items: list[Item], sizes: dict[int, int]) -> list[Slab]:
    """Slabs for buffers of `sizes` bytes that any GPU can take, a browser's too."""
    found: list[Temporary] = find_temporaries(items, sizes)
    return pack(found, ALIGNMENT, ARENA_LIMIT)


def _dtypes(program: Program) -> dict[int, DType]:
    """The one dtype of each buffer: as kernels see it; where only copies touch it, as the other end of the copy."""
    found: dict[int, DType] = {}
    arrays = [*program.outputs, *program.arguments, *([program.random] if program.random else [])]
    seen = {id(a.buffer): a.dtype for a in arrays}
    for number, buffer in program.buffers.items():
        if id(buffer) in seen:
            found[number] = seen[id(buffer)]
    for item in program.recording.items:
        for arg, place in zip(item.spec.kernel.args if item.spec else (), item.places, strict=False):
            assert item.spec is not None
            dtype = item.spec.dtype(arg)
            if found.setdefault(place.number, dtype) is not dtype:
                raise CheckpointError(f"[program] {item.name} ({item.where}) sees a buffer as {dtype.name} that others "
                                      f"see as {found[place.number].name}; a file must tell one dtype.")
    copies = [item.places for item in program.recording.items if item.spec is None]
    for source, target in [*copies, *reversed(copies)]:
        for one, other in ((source, target), (target, source)):
            if one.number in found:
                found.setdefault(other.number, found[one.number])
    for place in (p for places in copies for p in places):
        found.setdefault(place.number, uint32)
    return found


def _number(kernel: Kernel, name: str, value: Any) -> int | float | str:
    """A size or scalar as strict JSON."""
    if dict(kernel.scalars).get(name, uint32).kind == "i":
        return int(value)
    return float(value) if math.isfinite(value) else str(float(value))


def describe(structure: Any) -> Any:
    """What a step returns, as JSON: lists, tuples and dicts of tensors and plain values."""
    from .step import Leaf
    if isinstance(structure, Leaf):
        return {"tensor": structure.index}
    if isinstance(structure, tuple) and len(structure) == 2 and isinstance(structure[0], type):
        kind, parts = structure
        if kind is dict and all(isinstance(k, str) for k, _ in parts):
            return {"dict": [[k, describe(v)] for k, v in parts]}
        if kind in (list, tuple):
            return {kind.__name__: [describe(v) for v in parts]}
    if structure is None or isinstance(structure, (bool, int, float, str)):
        return {"value": structure}
    raise CheckpointError(f"[program] the step returns {str(structure)[:60]}, which no file can hold. Return tensors, "
                          "or lists, tuples and dicts of them.")
