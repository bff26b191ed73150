"""Programs from files. Nothing in a file is believed: every name, size and place is checked before anything runs."""

from __future__ import annotations

import math
import os
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from .. import runtime
from ..array import Array, empty, from_numpy
from ..backends.base import Buffer
from ..creation import check_range
from ..dtypes import DType, as_dtype, float32, float64, from_numpy_dtype, uint32
from ..errors import CheckpointError, DTypeError, DualmlError, ShapeError
from ..kernel import Kernel
from ..random import Generator
from ..safe_files import load_tensors, read_json, sha256
from ..tensor import Tensor
from .checks import read_dims, read_types, structure_of, whole
from .naming import kernel_of
from .plan import Slab, find_temporaries
from .program import Program
from .reach import check_reach
from .recording import Item, Place, Recording
from .saving import ALIGNMENT, FILE, FORMAT, STORED, TENSORS
from .step import Kept
from .updates import Update, read_update

_CLASSES = (*STORED, "random", "input", "output", "kept", "temporary")
_CHANGED = ("state", "output", "kept", "temporary")  # what launches may write to
_MOST = 1 << 20    # launches, buffers
_FIELDS = {"format", "name", "tensors", "kernels", "buffers", "inputs", "outputs", "returns", "updates", "random",
           "launches", "arenas"}


class LoadedProgram:
    """A program from a file. A call takes the tensors or arrays that the step took, in its order, and returns what the
    step returned; it changes the program's own weights and state. `optimizers` are the settings of the optimizer steps
    in it: set "lr" there between calls."""

    def __init__(self, program: Program, returns: Any, updates: list[Update]) -> None:
        self.program, self._kept = program, Kept(program, returns)
        self.optimizers = [update.settings for update in updates]

    def __call__(self, *given: Tensor | np.ndarray) -> Any:
        wanted = self.program.arguments
        if len(given) != len(wanted):
            raise ShapeError(f"[{self.program.name}] takes {len(wanted)} tensors, got {len(given)}.")
        for number, (one, own) in enumerate(zip(given, wanted, strict=True)):
            dtype = one.dtype if isinstance(one, Tensor) else from_numpy_dtype(one.dtype)
            if tuple(one.shape) != own.shape:
                raise ShapeError(f"[{self.program.name}] argument {number} must have shape {own.shape}, got "
                                 f"{tuple(one.shape)}.")
            if dtype is not own.dtype:
                raise DTypeError(f"[{self.program.name}] argument {number} must be {own.dtype.name}, got {dtype.name}.")
        return self._kept([one._array if isinstance(one, Tensor) else check_range(one) for one in given])

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the program with its present state, as Program.save does."""
        self.program.save(path)


def read_program(path: Path, backend: str | None, most: int) -> LoadedProgram:
    """What programs.load_program does."""
    with runtime.use_backend(backend or runtime.current().name):
        return _Reader(path, most).read()


class _Reader:
    """Checks a file from the bottom up: kernels, buffers, launches, what goes in and out."""

    def __init__(self, path: Path, most: int) -> None:
        self.path, self.most, self.backend = path, most, runtime.current()
        self.data = read_json(path / FILE)

    @contextmanager
    def checking(self, where: str) -> Iterator[None]:
        """Turns a complaint about a part of the file into an error that names file and part."""
        try:
            yield
        except CheckpointError:
            raise
        except (ValueError, TypeError, ArithmeticError, LookupError, DualmlError) as error:
            raise CheckpointError(f"[program] {self.path / FILE}, {where}: {error}. Use another copy of it.") from error

    def read(self) -> LoadedProgram:
        with self.checking("head"):
            self._head()
        self.kernels: list[Kernel] = []
        for index, entry in enumerate(self._list("kernels")):
            with self.checking(f"kernel {index}"):
                self.kernels.append(kernel_of(entry))
        self.buffers: list[tuple[str, DType, int]] = []
        for index, entry in enumerate(self._list("buffers")):
            with self.checking(f"buffer {index}"):
                self.buffers.append(self._buffer(entry))
        items = []
        for index, entry in enumerate(self._list("launches")):
            with self.checking(f"launch {index}"):
                items.append(self._item(entry))
        with self.checking("arenas"):
            arenas = self._arenas(items)
        with self.checking("buffers"):
            self._room(arenas)
            return self._assemble(items)

    # ---- the parts ----

    def _head(self) -> None:
        if self.data.get("format") != FORMAT:
            raise CheckpointError(f"[program] {self.path / FILE}: format must be {FORMAT}, got "
                                  f"{str(self.data.get('format'))[:20]}. Another version of dualml wrote it: capture "
                                  "the step again and save it with this one.")
        if self.data.keys() != _FIELDS:
            raise ValueError(f"fields must be {', '.join(sorted(_FIELDS))}, got {str(sorted(self.data))[:200]}")
        name = self.data["name"]
        if not isinstance(name, str) or len(name) > 200 or not name.isprintable():
            raise ValueError("name must be a short text")
        if self.data["tensors"] != sha256(self.path / TENSORS):
            raise ValueError(f"{TENSORS} is not the file that belongs to it")

    def _list(self, field: str) -> list[Any]:
        found = self.data[field]
        with self.checking(field):
            if not isinstance(found, list) or len(found) > _MOST:
                raise ValueError(f"must be a list of at most {_MOST:,}")
        return found

    def _buffer(self, entry: Any) -> tuple[str, DType, int]:
        if not isinstance(entry, dict) or entry.keys() != {"class", "dtype", "size"} or entry["class"] not in _CLASSES:
            raise ValueError(f"must have size, dtype and a class of {', '.join(_CLASSES)}, got {str(entry)[:80]}")
        if not isinstance(entry["dtype"], str):
            raise ValueError("dtype must be a name")
        dtype = as_dtype(entry["dtype"])
        self.backend.check_dtype("load_program", dtype)
        return entry["class"], dtype, whole(entry["size"], "size")

    def _place(self, value: Any, dtype: DType | None, count: int | None, changed: bool) -> Place:
        """A stretch that a launch sees, in bytes."""
        if not isinstance(value, list) or len(value) != 3:
            raise ValueError(f"a place must be [buffer, offset, count], got {str(value)[:60]}")
        number, offset, size = (whole(v, "a place's number") for v in value)
        if number >= len(self.buffers):
            raise ValueError(f"buffer {number} is not there, of {len(self.buffers)}")
        kind, held, room = self.buffers[number]
        if offset + size > room:
            raise ValueError(f"elements {offset} to {offset + size} of buffer {number} are asked for, which has {room}")
        if count is not None and size != count:
            raise ValueError(f"{size} elements of buffer {number} are bound where the dims say {count}")
        if dtype is not None and dtype is not held:
            raise ValueError(f"buffer {number} is {held.name}, but used as {dtype.name}")
        if changed and kind not in _CHANGED:
            raise ValueError(f"buffer {number} is written to, but is a {kind}")
        itemsize = self.backend.storage(held).itemsize
        if offset * itemsize % self.backend.alignment:
            raise ValueError(f"offset {offset} of buffer {number} is not on {self.backend.alignment} bytes")
        return Place(number, offset * itemsize, size * itemsize)

    def _item(self, entry: Any) -> Item:
        copies = isinstance(entry, dict) and entry.keys() == {"copy", "line"}
        if not copies and (not isinstance(entry, dict)
                           or entry.keys() != {"kernel", "types", "dims", "buffers", "line"}):
            raise ValueError("must have kernel, types, dims, buffers and line, or copy and line")
        line = entry["line"]
        if not isinstance(line, str) or len(line) > 300 or not line.isprintable():
            raise ValueError("line must be a short text")
        if not copies:
            return self._kernel_launch(entry, line)
        source, target = entry["copy"]
        places = self._place(source, None, None, False), self._place(target, None, None, True)
        if self.buffers[source[0]][1] is not self.buffers[target[0]][1] or source[2] != target[2] \
                or source[0] == target[0]:
            raise ValueError("a copy must be of as many elements of one dtype, to another buffer")
        return Item(places, line)

    def _kernel_launch(self, entry: dict[str, Any], line: str) -> Item:
        number = whole(entry["kernel"], "kernel")
        if number >= len(self.kernels):
            raise ValueError(f"kernel {number} is not there, of {len(self.kernels)}")
        kernel = self.kernels[number]
        dims = read_dims(kernel, entry["dims"])
        types = read_types(kernel, entry["types"])
        check_reach(kernel, dims)
        for _, dtype in types:
            self.backend.check_dtype(kernel.name, dtype)
        spec, program, count = runtime.specialise(self.backend, kernel, types, dims)
        given = entry["buffers"]
        if not isinstance(given, list) or len(given) != len(kernel.args):
            raise ValueError(f"{kernel.name} must have {len(kernel.args)} buffers")
        places = tuple([
            self._place(value, spec.dtype(arg), math.prod(kernel.size(d, dims) for d in arg.dims), arg.access != "read")
            for arg, value in zip(kernel.args, given, strict=True)])
        written = [p for p, a in zip(places, kernel.args, strict=True) if a.access != "read"]
        if not any(p.nbytes for p in written):  # array.run launches none such; CUDA would run a block all the same
            raise ValueError(f"{kernel.name} writes nothing")
        changed = {p.number for p in written}
        if any(a.access == "read" and p.number in changed for p, a in zip(places, kernel.args, strict=True)):
            raise ValueError(f"{kernel.name} reads from a buffer and writes to it")
        groups = count(dims)
        if groups >= 2**31:
            raise ValueError(f"{kernel.name} asks for {groups:,} workgroups")
        fields = dict(dims, groups=groups)
        params = np.array(tuple([fields[n] for n, _ in kernel.params]), spec.struct).tobytes()
        return Item(places, line, spec, program, params, groups, dims)

    # ---- memory ----

    def _arenas(self, items: list[Item]) -> list[int]:
        """Sizes of the arenas, after a look that nothing in them lies over another. They are made anew for the device
        at hand; a reader that cannot pack uses them as they are."""
        entry = self.data["arenas"]
        if not isinstance(entry, dict) or entry.keys() != {"sizes", "places"} or not isinstance(entry["places"], dict):
            raise ValueError("must have sizes and places")
        sizes = [whole(s, "an arena's size") for s in entry["sizes"]]
        found = find_temporaries(items, {n: size * dtype.device.itemsize for n, (kind, dtype, size)
                                         in enumerate(self.buffers) if kind == "temporary"})
        temporaries = {n for n, (kind, _, _) in enumerate(self.buffers) if kind == "temporary"}
        if {t.number for t in found} != temporaries or {str(n) for n in temporaries} != entry["places"].keys():
            raise ValueError("every temporary must be used by a launch and have a place, and nothing else")
        slabs = [Slab() for _ in sizes]
        for one in found:
            number, at = (whole(v, "an arena's place") for v in entry["places"][str(one.number)])
            slab = slabs[number]
            apart = all(at + one.nbytes <= start or start + t.nbytes <= at for start, t in slab.tenants
                        if t.first <= one.last and one.first <= t.last)
            if at % ALIGNMENT or at + one.nbytes > sizes[number] or not slab.admits(one) or not apart:
                raise ValueError(f"temporary {one.number} cannot lie at {at} of arena {number}")
            slab.add(at, one)
        return sizes

    def _room(self, arenas: list[int]) -> None:
        asked = sum(arenas) + sum(size * dtype.device.itemsize for kind, dtype, size in self.buffers
                                  if kind in ("input", "output", "kept"))
        if asked > self.most:
            raise ValueError(f"asks for {asked:,} bytes beside its tensors, where load_program's `most` is "
                             f"{self.most:,}")

    def _values(self) -> dict[int, Array]:
        """Arrays with the values of the other file, by number."""
        arrays = load_tensors(self.path / TENSORS)
        wanted = {str(n): n for n, (kind, _, _) in enumerate(self.buffers) if kind in STORED}
        if arrays.keys() != wanted.keys():
            raise ValueError(f"{TENSORS} must hold {len(wanted)} tensors, for each weight, state, setting and constant")
        for name, number in wanted.items():
            _, dtype, size = self.buffers[number]
            if arrays[name].shape != (size,) or arrays[name].dtype != dtype.host:
                raise ValueError(f"{TENSORS} has {arrays[name].dtype} {arrays[name].shape} where buffer {number} is "
                                 f"{dtype.name} ({size},)")
        return {n: from_numpy(arrays[name], self.buffers[n][1], self.backend) for name, n in wanted.items()}

    # ---- the whole ----

    def _assemble(self, items: list[Item]) -> LoadedProgram:
        generator, words = self._generator()
        held = self._values()
        held |= {n: empty((size,), dtype, self.backend) for n, (kind, dtype, size) in enumerate(self.buffers)
                 if kind in ("output", "kept")}
        randoms = [n for n, (kind, _, _) in enumerate(self.buffers) if kind == "random"]
        held |= {n: generator.state(self.backend) for n in randoms}
        recording = Recording(self.data["name"], self.backend, [])
        recording.items = items
        templates = self._inputs(recording)
        made = {n: a.buffer for n, a in held.items()}
        for number, buffer in made.items():
            kind = self.buffers[number][0]
            if kind == "constant":
                recording.constants[number] = buffer, b""
            elif kind in ("output", "kept"):
                recording.inside[number] = weakref.ref(buffer)
            else:
                recording.outside[number] = buffer
        updates = [read_update(entry, self._setting(held)) for entry in self._list("updates")]
        recording.actions = list(updates)
        program = Program(recording, templates, words, generator, fusion=True)
        program.outputs = [self._output(program.buffers, entry) for entry in self._list("outputs")]
        program.structure = structure_of(self.data["returns"], len(program.outputs))
        return LoadedProgram(program, program.structure, updates)

    def _generator(self) -> tuple[Generator, int]:
        entry = self.data["random"]
        if not isinstance(entry, dict) or entry.keys() != {"words", "seed", "position", "buffer"}:
            raise ValueError("random must have words, seed, position and buffer")
        seed, position = (whole(entry[n], n, 2**64) for n in ("seed", "position"))
        randoms = [n for n, b in enumerate(self.buffers) if b[0] == "random"]
        if randoms != ([] if entry["buffer"] is None else [entry["buffer"]]) \
                or any(self.buffers[n][1:] != (uint32, 4) for n in randoms):
            raise ValueError("random must name the one buffer of its class, of four uint32")
        generator = Generator(seed)
        generator.set_state({"seed": seed, "position": position})
        generator.rebase()
        return generator, whole(entry["words"], "words", 2**31)

    def _inputs(self, recording: Recording) -> list[Array]:
        templates = []
        for index, entry in enumerate(self._list("inputs")):
            if not isinstance(entry, dict) or entry.keys() != {"buffer", "shape"}:
                raise ValueError("an input must have buffer and shape")
            number, shape = whole(entry["buffer"], "buffer"), tuple(whole(s, "shape") for s in entry["shape"])
            kind, dtype, size = self.buffers[number]
            if kind != "input" or math.prod(shape) != size or number in recording.inputs:
                raise ValueError(f"input {index} of shape {shape} does not fit buffer {number}")
            recording.inputs[number] = index
            templates.append(empty(shape, dtype, self.backend))
        if len(recording.inputs) != sum(kind == "input" for kind, _, _ in self.buffers):
            raise ValueError("every buffer of class input must be an input")
        return templates

    def _setting(self, held: dict[int, Array]) -> Callable[[Any], Array]:
        def find(value: Any) -> Array:
            number = whole(value, "buffer")
            if number not in held or self.buffers[number][0] != "setting" \
                    or self.buffers[number][1] not in (float32, float64):
                raise ValueError(f"buffer {number} is no setting")
            return held[number]
        return find

    def _output(self, buffers: dict[int, Buffer], entry: Any) -> Array:
        if not isinstance(entry, dict) or entry.keys() != {"buffer", "offset", "shape"}:
            raise ValueError("an output must have buffer, offset and shape")
        number, offset = (whole(entry[n], n) for n in ("buffer", "offset"))
        shape = tuple(whole(s, "shape") for s in entry["shape"])
        _, dtype, room = self.buffers[number]
        if number not in buffers or offset + math.prod(shape) > room:
            raise ValueError(f"an output of shape {shape} does not fit buffer {number}")
        self._place([number, offset, math.prod(shape)], None, None, False)
        return Array(buffers[number], shape, dtype, offset)
