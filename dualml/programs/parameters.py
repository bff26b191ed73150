"""The host's side of a step: what it finds in parameters' `grad` and `requires_grad`, and what it leaves there.

What a step launches depends on it: a backward pass adds to a gradient that is there, and makes one where there is none.
So a replay must find what the recorded call found, and leave what that left.
"""

from __future__ import annotations

from typing import Any

from ..nn.module import Told
from ..tape import free_slot, lend_slot, lies_in
from ..tensor import Tensor

_LENT = "in the optimizer's memory"  # where a gradient lies


def _state(parameter: Any, value: Any) -> Any:
    """None, True or False, a gradient itself, or that it lies in its slot: to be compared by `is`."""
    return _LENT if isinstance(value, Tensor) and lies_in(value._array, parameter._slot) else value


class Uses:
    """All that one call asked of parameters that were there before, and what it set. An attribute is Tensor's own, as
    a Parameter's tells the recording of each use."""

    def __init__(self) -> None:
        self._seen: set[tuple[int, int]] = set()
        self._found: list[tuple[Any, Any, Any]] = []  # parameter, attribute, what was there when it was first asked
        self._set: dict[tuple[int, int], tuple[Any, Any]] = {}
        self._left: list[tuple[Any, Any, Any]] = []   # parameter, attribute, what was there at the end
        self._fits = self._settled = -1  # number of changes to any parameter when all was found, and found and left

    def note(self, parameter: Any, attribute: Any, change: bool) -> None:
        key = id(parameter), id(attribute)
        if change:
            self._set[key] = parameter, attribute
        elif key not in self._seen:
            self._found.append((parameter, attribute, _state(parameter, attribute.__get__(parameter))))
        self._seen.add(key)

    def end(self) -> None:
        """Called when the step has returned."""
        self._left = [(p, a, _state(p, a.__get__(p))) for p, a in self._set.values()]

    @property
    def begun(self) -> tuple[Any, ...]:
        """Hashable, and equal where two calls found the same: gradients in memory of their own count as such."""
        return tuple([(id(p), id(a), "own" if isinstance(found, Tensor) else found)
                      for p, a, found in self._found])

    def fit(self) -> bool:
        """Whether the step would find the same again."""
        changes = Told.changes  # before looking: another thread may change something meanwhile
        if self._settled == changes:
            return True
        for parameter, attribute, found in self._found:
            value = attribute.__get__(parameter)
            if value is not found and _state(parameter, value) is not found:
                return False
        self._fits = changes
        return True

    def leave(self) -> None:
        """Makes a replay leave what the recorded call left."""
        if self._settled == Told.changes:
            return
        for parameter, attribute, left in self._left:
            value = attribute.__get__(parameter)
            if left is not _LENT:
                if value is not left:
                    attribute.__set__(parameter, left)
                    Told.changes += 1
            elif value is None or not lies_in(value._array, parameter._slot):
                free_slot(parameter)
                lend_slot(parameter, parameter._slot)
        if self._fits == Told.changes:  # found and left as they are: until the next change there is nothing to do
            self._settled = Told.changes
