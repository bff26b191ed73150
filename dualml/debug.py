"""DUALML_DEBUG and DUALML_CHECK: two hooks on the one door, registered when dualml is imported with a flag set. And a
third for a with block, which finds the kernel that first wrote an infinite or NaN value."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from . import runtime
from .array import Array
from .backends.base import Binding
from .config import config
from .dtypes import float32, int32, uint32
from .errors import KernelError
from .runtime import Launch


def _shapes(launch: Launch) -> list[tuple[int, ...]]:
    return [tuple(launch.spec.kernel.size(d, launch.dims) for d in a.dims) for a in launch.spec.kernel.args]


def _values(launch: Launch, index: int) -> np.ndarray:
    """What an argument of a launch holds now, on the host."""
    bound, dtype = launch.bindings[index], launch.spec.dtype(launch.spec.kernel.args[index])
    itemsize = launch.backend.storage(dtype).itemsize
    with runtime.recorded_by(None):  # a look at a step being captured is no part of it
        return Array(bound.buffer, _shapes(launch)[index], dtype, bound.offset // itemsize).numpy()


class Trace:
    """Prints every launch: device time as the host sees it, bytes per second, and from level 3 on the shapes."""

    def before(self, launch: Launch) -> None:
        launch.backend.synchronize()
        self.started = time.perf_counter()

    def after(self, launch: Launch) -> None:
        launch.backend.synchronize()
        seconds = time.perf_counter() - self.started
        moved = sum(b.nbytes for b in launch.bindings)
        line = f"{launch.backend.name} {launch.spec.kernel.name:32s} {seconds * 1e6:9.0f} us"
        line += f" {moved / seconds / 1e9:7.2f} GB/s"
        if config.debug >= 3:
            names = (a.name for a in launch.spec.kernel.args)
            line += "  " + " ".join(f"{n}{list(s)}" for n, s in zip(names, _shapes(launch), strict=True))
        print(line)


class Check:
    """Runs the NumPy reference after every launch, on the same inputs, and stops at the first that disagrees."""

    def before(self, launch: Launch) -> None:
        if launch.backend.name != "cpu":
            self.inputs = [_values(launch, i) for i in range(len(launch.spec.kernel.inputs))]

    def after(self, launch: Launch) -> None:
        kernel = launch.spec.kernel
        if launch.backend.name == "cpu":
            return
        fields = np.frombuffer(launch.params, launch.spec.struct)[0]
        declared = dict(kernel.scalars)
        scalars = {n: fields[n].item() if n not in kernel.static else launch.dims[n] for n in declared}
        wide = [v.astype(np.float32) if v.dtype.itemsize == 2 else v for v in self.inputs]
        with np.errstate(all="ignore"):
            result = kernel.reference(*[v.copy() for v in wide], **scalars)
        results = result if isinstance(result, tuple) else (result,)
        targets = [*kernel.updated, *range(len(kernel.inputs), len(kernel.args))]
        for index, want in zip(targets, results, strict=True):
            self._compare(launch, index, np.asarray(want))

    def _compare(self, launch: Launch, index: int, want: np.ndarray) -> None:
        kernel, arg = launch.spec.kernel, launch.spec.kernel.args[index]
        dtype = launch.spec.dtype(arg)
        got = _values(launch, index).reshape(-1)
        expected = want.reshape(-1)
        exact = dtype in (int32, uint32) or dtype.kind == "b"
        tolerance = 0.0 if exact else 1e-4 if dtype is float32 else 2e-2
        finite = np.abs(expected[np.isfinite(expected)].astype(np.float64))
        scale = float(finite.max()) if finite.size else 0.0
        close = np.isclose(got.astype(np.float64), expected.astype(np.float64), rtol=tolerance,
                           atol=tolerance * max(scale, 1e-3), equal_nan=True)
        if not close.all():
            place = int((~close).argmax())
            raise KernelError(f"[{kernel.name}] on {launch.backend.name}: {arg.name} disagrees with the reference in "
                              f"{int((~close).sum())} of {close.size} elements, first at {place}: "
                              f"got {got[place]}, expected {expected[place]}. Shapes: {_shapes(launch)}.")


@dataclass
class NonFinite:
    """The first value that was infinite or NaN: the kernel that wrote it, its argument, shape and how many there are,
    and the named Arrays that the kernel read."""

    kernel: str
    argument: str
    shape: tuple[int, ...]
    count: int
    read: list[str]


class FirstNonFinite:
    """Looks at all that kernels write until one writes a value that is not finite. Waits after every launch.

    Args:
        names: of Arrays, to say which of them the kernel read. Casts hand a name on.
    """

    def __init__(self, names: Mapping[str, Array]) -> None:
        self.found: NonFinite | None = None
        self._names = {self._key(a.binding()): n for n, a in names.items()}
        self._kept: list[Any] = list(names.values())  # so that no other buffer takes a name's place

    @staticmethod
    def _key(bound: Binding) -> tuple[int, int]:
        return id(bound.buffer), bound.offset

    def before(self, launch: Launch) -> None: ...

    def after(self, launch: Launch) -> None:
        kernel = launch.spec.kernel
        if self.found is not None:
            return
        keys = dict.fromkeys(map(self._key, launch.bindings[:len(kernel.inputs)]))
        read = [self._names[key] for key in keys if key in self._names]
        for index in (*kernel.updated, *range(len(kernel.inputs), len(kernel.args))):
            arg = kernel.args[index]
            if launch.spec.dtype(arg).kind != "f":
                continue
            bad = int((~np.isfinite(_values(launch, index).astype(np.float32))).sum())
            if bad:
                self.found = NonFinite(kernel.name, arg.name, _shapes(launch)[index], bad, read)
                return
        if kernel.name == "cast_forward" and read:
            self._kept.append(launch.bindings[1].buffer)
            self._names[self._key(launch.bindings[1])] = read[0]


@contextmanager
def first_nonfinite(names: Mapping[str, Array] | None = None) -> Iterator[FirstNonFinite]:
    """A with block whose launches are searched for the first infinite or NaN value; `.found` has it afterwards."""
    hook = FirstNonFinite(names or {})
    runtime.hooks.append(hook)
    try:
        yield hook
    finally:
        runtime.hooks.remove(hook)


if config.check:
    runtime.hooks.append(Check())
if config.debug >= 2:
    runtime.hooks.append(Trace())
