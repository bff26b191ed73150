"""Arena: many parameters in one flat Array, their gradients in another, so that one launch reaches them all.

A parameter's Array becomes a view into the arena and its gradient is written straight into the gradient arena (see
Op.into), so neither the optimizer step nor the gradient norm needs one launch per parameter. Views begin at the
backend's alignment; the gaps between them hold zeros.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Sequence

from ..array import Array
from ..backends.base import Buffer
from ..dtypes import DType
from ..errors import BackendError, GradientError
from ..nn.module import Parameter
from ..ops.create import fill
from ..tape import fill_slot, lend_slot, lies_in

_BY_GRADIENT: weakref.WeakKeyDictionary[Buffer, Arena] = weakref.WeakKeyDictionary()


class Arena:
    """Parameters of one dtype and backend, laid out one after another."""

    def __init__(self, parameters: Sequence[Parameter]) -> None:
        first = parameters[0]._array
        self.parameters = list(parameters)
        self.backend, self.dtype = first.backend, first.dtype
        self.starts, self.size = layout(parameters)
        self.values = fill((self.size,), 0, self.dtype, self.backend)
        self.gradients = fill((self.size,), 0, self.dtype, self.backend)
        for parameter, start in zip(parameters, self.starts, strict=True):
            slot = self.values.slot(start, parameter.shape)
            fill_slot(slot, parameter._array)
            parameter._array.buffer.moved = True
            parameter._array = slot
            parameter._slot = self.gradients.slot(start, parameter.shape)
            self._take(parameter, parameter._slot)
        _BY_GRADIENT[self.gradients.buffer] = self

    def zeros(self, dtype: DType | None = None) -> Array:
        """Another Array of the arena's layout, for optimizer state."""
        return fill((self.size,), 0, dtype or self.dtype, self.backend)

    def view(self, flat: Array, index: int) -> Array:
        """Parameter number index's part of an Array of the arena's layout."""
        return flat.slot(self.starts[index], self.parameters[index].shape)

    def _gather(self, index: int) -> bool:
        """Whether a parameter has a gradient; one that was assigned from outside is copied into its slot."""
        parameter = self.parameters[index]
        if parameter._array.buffer is not self.values.buffer:
            raise BackendError("[optimizer] a parameter was moved or replaced since the optimizer was made. Make the "
                               "optimizer after model.to(...).")
        if parameter.grad is None:
            return False
        if parameter._slot is None or parameter._slot.buffer is not self.gradients.buffer:
            parameter._slot = self.view(self.gradients, index)
        self._take(parameter, parameter._slot)
        return True

    @staticmethod
    def _take(parameter: Parameter, slot: Array) -> None:
        """Makes a gradient from elsewhere lie in its slot."""
        found = parameter.grad
        if found is None or lies_in(found._array, slot):
            return
        if (found.shape, found.dtype, found.backend) != (parameter.shape, parameter.dtype, parameter.backend):
            raise GradientError(f"[optimizer] grad must be {parameter.dtype.name} of shape {parameter.shape} on "
                                f"{parameter.backend}, got {found.dtype.name} of {found.shape} on {found.backend}.")
        fill_slot(slot, found._array)
        lend_slot(parameter, slot)

    def stretches(self, steps: Sequence[int]) -> list[tuple[int, int, range]]:
        """(start, stop, parameters) of neighbours that have gradients and took as many steps so far (`steps`, by
        parameter): as a rule one, the whole arena."""
        found: list[tuple[int, int, range]] = []
        for index, (start, stop) in enumerate(zip(self.starts, [*self.starts[1:], self.size], strict=True)):
            if not self._gather(index):
                continue
            first = index
            if found and found[-1][1] == start and steps[found[-1][2].start] == steps[index]:
                start, _, members = found.pop()
                first = members.start
            found.append((start, stop, range(first, index + 1)))
        return found


def layout(parameters: Sequence[Parameter]) -> tuple[list[int], int]:
    """Start of each parameter in elements, and the size of the whole."""
    backend, dtype = parameters[0]._array.backend, parameters[0].dtype
    step = backend.alignment // backend.storage(dtype).itemsize
    starts, place = [], 0
    for parameter in parameters:
        starts.append(place)
        place += -(-parameter.numel() // step) * step
    return starts, place


def make_arenas(parameters: Iterable[Parameter]) -> list[Arena]:
    """Arenas of parameters that share dtype and backend, each below the backend's largest binding."""
    found: list[Arena] = []
    batches: dict[tuple[str, DType], list[Parameter]] = {}
    for parameter in parameters:
        batch = batches.setdefault((parameter.backend, parameter.dtype), [])
        limit = parameter._array.backend.device.limits.get("max-storage-buffer-binding-size", 1 << 62)
        if batch and layout([*batch, parameter])[1] * 4 > limit:
            found.append(Arena(batch))
            batch = batches[parameter.backend, parameter.dtype] = []
        batch.append(parameter)
    return found + [Arena(batch) for batch in batches.values() if batch]


def gradient_arrays(parameters: Iterable[Parameter]) -> list[Array]:
    """The parameters' gradients as few Arrays: a whole arena where all of it is asked for and has gradients."""
    arrays: list[Array] = []
    by_arena: dict[Arena, list[Parameter]] = {}
    for parameter in parameters:
        if parameter.grad is None:
            continue
        slot = parameter._slot
        arena = _BY_GRADIENT.get(slot.buffer) if slot is not None and lies_in(parameter.grad._array, slot) else None
        if arena is None:
            arrays.append(parameter.grad._array)
        else:
            by_arena.setdefault(arena, []).append(parameter)
    for arena, members in by_arena.items():
        if len(members) == len(arena.parameters):
            arrays.append(arena.gradients)
        else:
            arrays += [p.grad._array for p in members if p.grad is not None]
    return arrays
