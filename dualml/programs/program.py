"""Program: a recorded step as a readable list, and what replays it."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np

from .. import runtime
from ..array import Array
from ..backends.base import Binding, Buffer, Frozen
from ..dtypes import DType
from ..random import Generator, default_generator
from .branches import needs
from .classes import bytes_by_class
from .costs import operations
from .fuse import fused
from .plan import Temporary, find_temporaries, pack
from .recording import Item, Place, Recording

_LEAST = 16  # bytes that WebGPU binds of a result without elements, which must not lie in another one
_SLAB_LIMIT = 256 << 20  # bytes; WebGPU's default for one buffer


class Program:
    """What a captured step does, and the buffers that it does it on.

    `replay` takes the step's tensor arguments. Buffers from outside (weights, optimizer state) are used where they are,
    arguments are copied into buffers of the program, outputs and whatever else the step left behind (gradients) are
    written where the recorded call left them.
    """

    def __init__(self, recording: Recording, arguments: Sequence[Array], words: int,
                 generator: Generator | None = None, fusion: bool = False) -> None:
        self.recorded = len(recording.items)  # launches of an eager step
        graph = fused(recording) if fusion else None
        self.notes = graph.notes if graph else None
        self.name, self.backend = recording.name, recording.backend
        self.items = graph.items if graph else recording.items
        self.actions, self.words, self.recording = recording.actions, words, recording
        self.generator = generator or default_generator()
        self.random = self.generator.state(self.backend) if words else None  # what the launches read
        self.outputs: list[Array] = []
        self.structure: Any = None  # of what the step returns
        self.arguments = [Array(self.backend.alloc(a.nbytes), a.shape, a.dtype) for a in arguments]
        self._buffers: dict[int, Buffer] = dict(recording.outside)
        self._buffers |= {n: self.arguments[i].buffer for n, i in recording.inputs.items()}
        self._buffers |= {n: buffer for n, (buffer, _) in recording.constants.items()}
        self._buffers |= recording.alive() | (graph.constants if graph else {})
        self.temporaries = self._find_temporaries()
        self._moved: dict[int, tuple[Buffer, int]] = {}
        self.temporary_bytes = sum(t.nbytes for t in self.temporaries)
        self.arena_bytes = self._allocate()
        self._written = self._find_written()
        self._frozen = self._freeze()
        self._replay = self.backend.freeze(self._frozen)

    # ---- memory ----

    def _find_temporaries(self) -> list[Temporary]:
        sizes: dict[int, int] = {}
        for place in (p for item in self.items for p in item.places if p.number not in self._buffers):
            sizes[place.number] = max(sizes.get(place.number, _LEAST), place.offset + place.nbytes)
        return find_temporaries(self.items, sizes)

    def _allocate(self) -> int:
        """Buffers for the temporaries. Returns their bytes."""
        if not self.backend.packs:
            self._moved = {t.number: (self.backend.alloc(t.nbytes), 0) for t in self.temporaries}
            return self._peak()
        slabs = pack(self.temporaries, self.backend.alignment, self._limit())
        for slab in slabs:
            buffer = self.backend.alloc(slab.size)
            self._moved |= {tenant.number: (buffer, place) for place, tenant in slab.tenants}
        return sum(slab.size for slab in slabs)

    def _limit(self) -> int:
        return int(self.backend.device.limits.get("max-storage-buffer-binding-size", _SLAB_LIMIT))

    def _peak(self) -> int:
        """Most bytes of temporaries that are alive at one launch."""
        change: Counter[int] = Counter()
        for one in self.temporaries:
            change[one.first] += one.nbytes
            change[one.last + 1] -= one.nbytes
        return int(np.cumsum([change[i] for i in range(len(self.items) + 1)]).max(initial=0))

    def _binding(self, place: Place) -> Binding:
        if place.number in self._moved:
            buffer, start = self._moved[place.number]
            return Binding(buffer, start + place.offset, place.nbytes)
        return Binding(self._buffers[place.number], place.offset, place.nbytes)

    def _find_written(self) -> list[Buffer]:
        """Buffers from outside that the program writes to."""
        numbers = {p.number for item in self.items for p, access in item.accesses() if access != "read"}
        return [self._buffers[n] for n in sorted(numbers) if n in self._buffers]

    def _freeze(self) -> list[Frozen]:
        last: dict[int, list[Buffer]] = {}
        for one in self.temporaries:
            last.setdefault(one.last, []).append(self._moved[one.number][0])
        bound = [[self._binding(p) for p in item.places] for item in self.items]
        waits = needs([[(b, access != "read") for b, (_, access) in zip(own, item.accesses(), strict=True)]
                       for own, item in zip(bound, self.items, strict=True)])
        return [Frozen(item.program, bound[index], item.params, item.groups, last.get(index, ()), waits[index])
                for index, item in enumerate(self.items)]

    # ---- replay ----

    @cached_property
    def _returned(self) -> list[Binding]:
        return [own.binding() for own in self.outputs]

    def replay(self, arguments: Sequence[Any]) -> list[Array]:
        """Runs the step again. Returns copies of `outputs`.

        Args:
            arguments: Arrays or NumPy arrays of the recorded shapes and dtypes.
        """
        generator = self.generator
        generator.rebase()
        if self.random is not None and generator.state(self.backend) is not self.random:  # seeded anew since
            self.random.write(generator.words())
        for own, given in zip(self.arguments, arguments, strict=True):
            if isinstance(given, Array):
                own.copy_from(given)
            else:
                own.write(given)
        for action in self.actions:
            action()
        self.recording.uses.leave()
        if runtime.hooks:  # profiles, traces and checks see launches one by one
            self._through_the_door()
            made = self.backend.copies(self._returned)
        else:
            made = self._replay(self._returned)
        generator.offset += self.words
        for buffer in self._written:
            buffer.version += 1
        return [Array(buffer, own.shape, own.dtype) for own, buffer in zip(self.outputs, made, strict=True)]

    def _through_the_door(self) -> None:
        for item, one in zip(self.items, self._frozen, strict=True):
            if item.spec is None:
                self.backend.copy_bound(*one.bindings)
            else:
                runtime.launch(runtime.Launch(self.backend, item.spec, one.program, one.bindings, one.params,
                                              one.groups, item.dims))

    def array(self, number: int, shape: tuple[int, ...], dtype: DType, offset: int) -> Array:
        """An output: a view of a numbered buffer."""
        return Array(self._buffers[number], shape, dtype, offset)

    @property
    def buffers(self) -> dict[int, Buffer]:
        """By number: all but the temporaries."""
        return self._buffers

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the program and its present state into a folder that dm.load_program runs without Python's model."""
        from .saving import save_program
        save_program(self, path)

    # ---- to look at ----

    @property
    def launches(self) -> int:
        return len(self.items)

    @property
    def moved_bytes(self) -> int:
        """Bytes that the launches and copies of one replay read and write, each as if nothing were cached."""
        return sum(item.moved_bytes for item in self.items)

    @property
    def flops(self) -> float:
        """Operations of one replay's products and attention."""
        return sum(operations(item.spec, item.dims) for item in self.items if item.spec)

    def classes(self) -> dict[str, int]:
        """Bytes of the buffers by class: weight, state, setting, random, constant, input, output, kept, temporary."""
        return bytes_by_class(self)

    def explain(self) -> str:
        """What fusion made of the recorded launches, and what it left as it was and why."""
        if self.notes is None:
            return f"{self.name}: {self.launches} launches, not fused (dm.capture(step, fusion=False))."
        done = Counter[tuple[str, str]]()
        for note in self.notes:
            done[note.rule, note.text] += note.saved or 1
        kept = {(n.rule, n.text): "done" if n.done else "kept" for n in self.notes if not n.saved}
        lines = [f"{self.name}: {self.recorded} launches became {self.launches}."]
        lines += [f"  {rule:12s} -{count:<4d} {text}" for (rule, text), count in done.items()
                  if (rule, text) not in kept]
        lines += [f"  {rule:12s} {how}  {text}" for (rule, text), how in sorted(kept.items())]
        left = Counter(item.name for item in self.items)
        return "\n".join([*lines, "What runs: " + ", ".join(f"{n} {name}" for name, n in left.most_common())])

    def __str__(self) -> str:
        lines = [f"{self.name} on {self.backend.name}: {self.launches} launches, temporaries of "
                 f"{self.temporary_bytes / 2**20:.1f} MiB in {self.arena_bytes / 2**20:.1f} MiB, "
                 f"{self.moved_bytes / 2**20:.1f} MiB moved, {self.flops / 1e9:.2f} GFLOP",
                 "  MiB: " + ", ".join(f"{kind} {nbytes / 2**20:.2f}" for kind, nbytes in self.classes().items())]
        for index, item in enumerate(self.items):
            lines.append(f"{index:4d}  {item.name:28s} {_described(item)}  [{item.where}]")
        return "\n".join(lines)


def _described(item: Item) -> str:
    """Buffers with shapes, inputs before the arrow."""
    if item.spec is None:
        return f"#{item.places[0].number} -> #{item.places[1].number} {item.places[0].nbytes} bytes"
    kernel, sides = item.spec.kernel, ([], [])  # type: tuple[Any, tuple[list[str], list[str]]]
    for index, (arg, place) in enumerate(zip(kernel.args, item.places, strict=True)):
        shape = ",".join(str(kernel.size(d, item.dims)) for d in arg.dims)
        sides[index >= len(kernel.inputs)].append(f"#{place.number}[{shape}]")
    return f"{' '.join(sides[0])} -> {' '.join(sides[1])}"
