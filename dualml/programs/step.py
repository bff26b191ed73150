"""capture: a function whose first calls are recorded and whose later calls are replayed."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Generic, ParamSpec, TypeVar, overload

import numpy as np

from .. import runtime
from ..backends.base import Backend
from ..creation import check_range, tensor
from ..errors import CaptureError
from ..random import default_generator
from ..tape import input_policy, is_grad_enabled, no_grad
from ..tensor import Tensor
from .program import Program
from .recording import Recording, difference

P = ParamSpec("P")
R = TypeVar("R")
_MOST_RECORDINGS = 3  # the first may differ: it may make what later calls find


class Leaf:
    """The place of a tensor in a structure: one object for each index (see leaf), which makes structures comparable."""

    def __init__(self, index: int) -> None:
        self.index = index


_leaves: dict[int, Leaf] = {}


def leaf(index: int) -> Leaf:
    return _leaves.get(index) or _leaves.setdefault(index, Leaf(index))


def _flatten(value: Any, leaves: list[Any], kinds: list[Any]) -> Any:
    """The structure of nested lists, tuples and dicts, hashable. Tensors and NumPy arrays go to `leaves`. What tells
    equal keys and plain values apart goes to `kinds`: 1, 1.0 and True, or 0.0 and -0.0, do not do the same."""
    if isinstance(value, (Tensor, np.ndarray)):
        leaves.append(value)
        return leaf(len(leaves) - 1)
    if isinstance(value, (list, tuple)):
        return type(value), tuple([_flatten(v, leaves, kinds) for v in value])
    if isinstance(value, dict):
        for key in value:
            _flatten(key, [], kinds)
        return dict, tuple([(k, _flatten(v, leaves, kinds)) for k, v in value.items()])
    kinds.append(repr(value) if isinstance(value, float) else type(value))
    return value


def _rebuild(structure: Any, leaves: list[Any]) -> Any:
    if isinstance(structure, Leaf):
        return leaves[structure.index]
    if isinstance(structure, tuple) and len(structure) == 2 and isinstance(structure[0], type):
        kind, parts = structure
        if kind is dict:
            return {k: _rebuild(v, leaves) for k, v in parts}
        values = [_rebuild(v, leaves) for v in parts]
        return kind(*values) if hasattr(kind, "_fields") else kind(values)
    return structure


def _own(name: str, leaves: list[Any]) -> list[Tensor]:
    """Arguments in memory of their own, as a replay has them: what is passed twice, or used from outside as well, may
    be two things at the next call. Those that require a gradient stay, for their gradients to be found."""
    given = [tensor(v) if not isinstance(v, Tensor) else v if v.requires_grad else Tensor(v._array.copy())
             for v in leaves]
    buffers = [t._array.buffer for t in given]
    for index, one in enumerate(given):
        if one._slot is not None or buffers.count(one._array.buffer) > 1:
            raise CaptureError(f"[capture] argument {index} of {name} must be a tensor of its own, got an optimizer's "
                               "parameter or one that is passed twice and requires a gradient. Let the step use it "
                               "from outside, or pass .detach().")
    return given


class Kept:
    """A program with the shape of what the step returns."""

    def __init__(self, program: Program, structure: Any) -> None:
        self.program, self.structure = program, structure

    def __call__(self, arguments: list[Any]) -> Any:
        return _rebuild(self.structure, [Tensor(a) for a in self.program.replay(arguments)])


class Captured(Generic[P, R]):
    """A captured step. `programs` has one Program for each set of argument shapes, dtypes and plain values."""

    def __init__(self, function: Callable[P, R], fusion: bool = True) -> None:
        functools.update_wrapper(self, function)
        self.function, self.fusion = function, fusion
        self.name = getattr(function, "__name__", "step")
        self._kept: dict[Any, list[Kept]] = {}
        self._recordings: dict[Any, list[Recording]] = {}

    def __repr__(self) -> str:
        made = [f"{p.launches} launch{'es' * (p.launches != 1)} on {p.backend.name}" for p in self.programs]
        return f"<dm.capture of {self.name}: {'; '.join(made) or 'no program yet, the first calls record it'}>"

    @property
    def programs(self) -> list[Program]:
        return [kept.program for ways in self._kept.values() for kept in ways]

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        leaves: list[Any] = []
        kinds: list[Any] = []
        structure = _flatten((args, kwargs), leaves, kinds)
        backend = runtime.current()
        shapes = tuple([(v.shape, v.dtype, type(v)) for v in leaves])
        key = (structure, tuple(kinds), shapes, backend.name, is_grad_enabled(), input_policy())
        try:
            ways = self._kept.get(key, [])
        except TypeError:
            raise CaptureError(f"[capture] arguments of {self.name} must be tensors, arrays or hashable values."
                               ) from None
        if runtime.recorder() is not None:  # part of a larger step
            return self.function(*args, **kwargs)
        for kept in ways:
            if kept.program.recording.holds() and kept.program.recording.uses.fit():
                result: R = kept([v._array if isinstance(v, Tensor) else check_range(v) for v in leaves])
                return result
        return self._record(key, structure, leaves, backend)

    def _record(self, key: Any, structure: Any, leaves: list[Any], backend: Backend) -> R:
        given = _own(self.name, leaves)
        generator = default_generator()
        generator.state(backend)
        generator.rebase()
        recording = Recording(self.name, backend, [t._array.buffer for t in given])
        args, kwargs = _rebuild(structure, given)
        with runtime.recorded_by(recording):
            result: R = self.function(*args, **kwargs)
        recording.uses.end()
        words = generator.offset
        outputs: list[Tensor] = []
        shape = _flatten(result, outputs, [])
        begun = key, recording.uses.begun
        earlier = self._recordings.setdefault(begun, [])
        if earlier and not earlier[-1].holds():  # recorded in another mode
            earlier.clear()
        parts = difference(earlier[-1], recording) if earlier else ""
        if parts and len(earlier) + 1 >= _MOST_RECORDINGS:
            raise CaptureError(f"[capture] {self.name} does not do the same at every call: {parts}. What changes from "
                               "call to call must be a tensor argument, or live in device memory.")
        if earlier and not parts:
            numbers = [recording.number(t._array.buffer) for t in outputs]  # first: no launch may have used one
            program = Program(recording, [t._array for t in given], words, fusion=self.fusion)
            arrays = [program.array(number, t.shape, t.dtype, t._array.offset)
                      for number, t in zip(numbers, outputs, strict=True)]
            program.outputs, program.structure = arrays, shape
            ways = [kept for kept in self._kept.get(key, []) if not kept.program.recording.stale]
            self._kept[key] = [*ways, Kept(program, shape)]
            del self._recordings[begun]
            backend.trim()  # the temporaries of the recorded calls
        else:
            earlier.append(recording)
        returned: R = copied(shape, outputs)
        return returned


def copied(structure: Any, outputs: list[Tensor]) -> Any:
    """What the step returns, in memory that the next replay does not change, and without a history as there."""
    with no_grad():
        return _rebuild(structure, [t.clone() for t in outputs])


@overload
def capture(function: Callable[P, R], *, fusion: bool = ...) -> Captured[P, R]: ...
@overload
def capture(*, fusion: bool = ...) -> Callable[[Callable[P, R]], Captured[P, R]]: ...
def capture(function: Callable[..., Any] | None = None, *, fusion: bool = True) -> Any:
    """Makes a step that is recorded twice and then replayed: `step = dm.capture(step)`, or as a decorator.

    The step's tensor and array arguments may change from call to call, in value; other shapes, dtypes or plain values
    make another program. Returned tensors are copies. What the step changes outside (weights, gradients, optimizer
    state, the random stream) changes at a replay as it would in a call.

    Args:
        fusion: whether neighbouring launches are made one where that gives the same; `program.explain()` shows what
            became of them.
    Raises:
        CaptureError: where a replay would not do what a call does: the step reads from the device, writes host values
            to a tensor from outside, or two calls of it differ; the message names the launch and the line.
    """
    if function is None:
        return functools.partial(Captured, fusion=fusion)
    return Captured(function, fusion)
