"""What device memory is used for: bytes by what made them, or by parameter, gradient and optimizer state.

    print(dm.memory_by_origin(model, optimizer))    # what is alive now
    with dm.memory_trace():                         # from here on: which kernel, which of your lines
        step(x, y)
        print(dm.memory_by_origin(model, optimizer))

Without a trace nothing is kept beside the buffers: they are found through Python's garbage collector.
"""

from __future__ import annotations

import gc
import sys
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from . import runtime
from .array import Array
from .backends import base
from .backends.base import Backend, Buffer
from .errors import ShapeError
from .nn import Module
from .optim import Optimizer

_PACKAGE = Path(__file__).resolve().parent
_ARRAY, _PROGRAM = str(_PACKAGE / "array.py"), str(_PACKAGE / "programs" / "program.py")
_UNKNOWN = "before the trace"
_sources: weakref.WeakKeyDictionary[Buffer, tuple[str, str]] = weakref.WeakKeyDictionary()  # origin and line


def memory(backend: str | None = None) -> dict[str, int]:
    """Bytes of a backend (the current one by default): "in_use" by tensors, their "peak", and free ones in its "pool".
    """
    return (runtime.current() if backend is None else runtime.get(backend)).memory()


@contextmanager
def memory_trace() -> Iterator[None]:
    """Remembers of each buffer made within what made it, a kernel, host values, a captured step, and on which line
    outside dualml. Each allocation takes some microseconds longer meanwhile."""
    base.watchers.append(_note)
    try:
        yield
    finally:
        base.watchers.remove(_note)


def _note(buffer: Buffer) -> None:
    """Reads from the stack who asks for a buffer: above this are Buffer's and the backend's own frames."""
    origin, frame = "", sys._getframe(3)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(str(_PACKAGE)):
        file, name = frame.f_code.co_filename, frame.f_code.co_name
        if not origin and file == _ARRAY and name == "run":
            origin = str(frame.f_locals["kernel"].name)
        elif not origin and file == _ARRAY and name == "from_numpy":
            origin = "from host"
        elif not origin and file == _ARRAY and name == "copy":
            origin = "copy"
        elif file == _PROGRAM:
            origin = "captured step"
        frame = frame.f_back
    _sources[buffer] = origin or "empty", f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}"


# ---- what is alive --------------------------------------------------------------------------------------------------

@dataclass(frozen=True, slots=True)
class Origin:
    """Buffers, or parts of buffers, of one kind: a kernel's results with the line, or a named parameter's value."""

    kind: str
    name: str
    count: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class Origins:
    """The living buffers of a backend. `rounding` is what in_use has above them: sizes of the pool are rounded up."""

    backend: str
    rows: list[Origin]
    memory: dict[str, int]

    @property
    def rounding(self) -> int:
        return self.memory["in_use"] - sum(row.nbytes for row in self.rows)

    def kinds(self) -> dict[str, int]:
        """Bytes by kind, most first."""
        found: dict[str, int] = {}
        for row in self.rows:
            found[row.kind] = found.get(row.kind, 0) + row.nbytes
        return dict(sorted(found.items(), key=lambda item: -item[1]))

    def table(self, most: int = 25) -> str:
        """The kinds, then the largest rows, as text."""
        lines = [f"{'kind':28s} {'MiB':>10s}"]
        lines += [f"{kind[:28]:28s} {size / 2**20:10.3f}" for kind, size in self.kinds().items()]
        lines += [f"{'rounded up':28s} {self.rounding / 2**20:10.3f}"] if self.rounding else []
        lines.append(f"{f'in use on {self.backend}':28s} {self.memory['in_use'] / 2**20:10.3f}   peak "
                     f"{self.memory['peak'] / 2**20:.3f}, pool {self.memory['pool'] / 2**20:.3f}")
        lines += ["", f"{'origin':28s} {'name or line':44s} {'count':>6s} {'MiB':>10s}"]
        lines += [f"{row.kind[:28]:28s} {row.name[:44]:44s} {row.count:6d} {row.nbytes / 2**20:10.3f}"
                  for row in self.rows[:most]]
        return "\n".join(lines + ([f"... and {len(self.rows) - most} more"] if len(self.rows) > most else []))

    def __str__(self) -> str:
        return self.table()


def memory_by_origin(*owners: Module | Optimizer, backend: str | None = None) -> Origins:
    """What the living buffers of a backend hold, most bytes first.

    Args:
        owners: modules and optimizers, whose parameters, gradients and state are then told by name.
        backend: the current one by default.
    """
    target = runtime.current() if backend is None else runtime.get(backend)
    left = {b: b.nbytes for b in living(target)}
    found: dict[tuple[str, str], list[int]] = {}
    kinds: dict[Buffer, str] = {}
    for kind, name, array in _named(owners):
        if array.buffer in left:
            size = min(array.nbytes, left[array.buffer])
            left[array.buffer] -= size
            kinds[array.buffer] = kind
            _add(found, kind, name, size)
    for buffer, size in left.items():
        if buffer in kinds:  # an arena that holds more than was named
            if size:
                _add(found, kinds[buffer], "(gaps, and what no owner names)", size)
        else:
            _add(found, *_sources.get(buffer, (_UNKNOWN, "")), size)
    rows = [Origin(kind, name, count, size) for (kind, name), (count, size) in found.items()]
    return Origins(target.name, sorted(rows, key=lambda row: -row.nbytes), target.memory())


def living(backend: Backend) -> list[Buffer]:
    """Every buffer of a backend that something refers to."""
    return [b for b in gc.get_objects() if type(b) is Buffer and getattr(b, "backend", None) is backend]


def _add(found: dict[tuple[str, str], list[int]], kind: str, name: str, size: int) -> None:
    entry = found.setdefault((kind, name), [0, 0])
    entry[0] += 1
    entry[1] += size


def _named(owners: tuple[Module | Optimizer, ...]) -> Iterator[tuple[str, str, Array]]:
    """Kind, name and memory of what owners hold; each stretch of memory once."""
    names: dict[int, str] = {}
    seen: set[tuple[int, int]] = set()

    def once(kind: str, name: str, array: Array | None) -> Iterator[tuple[str, str, Array]]:
        if array is not None and (id(array.buffer), array.offset) not in seen:
            seen.add((id(array.buffer), array.offset))
            yield kind, name, array
    for owner in owners:
        if isinstance(owner, Module):
            for name, parameter in owner.named_parameters():
                names[id(parameter)] = name
                yield from once("parameter", name, parameter._array)
                gradient = parameter._slot if parameter.grad is None else parameter.grad._array
                yield from once("gradient", name, gradient)
        elif isinstance(owner, Optimizer):
            for arena, state in owner.state.items():
                for index, parameter in enumerate(arena.parameters):
                    name = names.get(id(parameter), f"parameter {index}")
                    for kind, array in state.items():
                        yield from once(kind, name, arena.view(array, index))
        else:
            raise ShapeError(f"[memory] owners must be modules or optimizers, got {type(owner).__name__}.")
