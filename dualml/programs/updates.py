"""Host work of a step that a file can hold: an optimizer's numbers, which change with its count of steps."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from ..array import Array
from ..errors import CheckpointError
from ..optim import SGD, Adam, AdamW
from ..optim.optimizer import Optimizer

_ADAM = ("lr", "betas", "eps", "weight_decay")
_KINDS: dict[str, tuple[type[Optimizer], tuple[str, ...]]] = {
    "SGD": (SGD, ("lr", "momentum", "dampening", "weight_decay", "nesterov")), "Adam": (Adam, _ADAM),
    "AdamW": (AdamW, _ADAM)}


class Update:
    """Counts a step of an optimizer and writes the numbers that its kernel reads. `settings` may be changed."""

    def __init__(self, kind: str, settings: dict[str, Any], steps: int, array: Array) -> None:
        self.kind, self.settings, self.steps, self.array = kind, settings, steps, array

    def numbers(self, step: int) -> tuple[float, ...]:
        made = _KINDS[self.kind][0]
        return made.__new__(made).hyper(self.settings, step)  # hyper is a function of its arguments alone

    def __call__(self) -> None:
        self.steps += 1
        self.array.write(np.array(self.numbers(self.steps)))

    def describe(self) -> dict[str, Any]:
        settings = {n: list(v) if isinstance(v, tuple) else v for n, v in self.settings.items()}
        return {"optimizer": self.kind, "settings": settings, "steps": self.steps}


def update_of(action: Callable[[], None]) -> Update:
    """The Update of host work that a step was recorded with. Raises CheckpointError where it is other Python code."""
    if isinstance(action, Update):
        return action
    owner = getattr(getattr(action, "func", action), "__self__", None)
    kind = type(owner).__name__
    known = kind in _KINDS and type(owner) is _KINDS[kind][0]
    if known and isinstance(owner, Optimizer) and isinstance(action, functools.partial):
        group, arena, number, members, _ = action.args
        settings = {n: _plain(group[n]) for n in _KINDS[kind][1]}
        return Update(kind, settings, owner.steps[arena][members[0]], owner._device[arena, number][1])
    what = kind if owner is not None else getattr(action, "__name__", "a function")
    raise CheckpointError(f"[program] the step calls {what}, which is Python code that no file can hold. Call it "
                          "outside the captured step; where it set the learning rate, set program.optimizers[0]['lr'] "
                          "after loading.")


def _plain(value: Any) -> Any:
    if isinstance(value, (bool, np.bool_)):
        return bool(value)
    return tuple(float(v) for v in value) if isinstance(value, (tuple, list)) else float(value)


def read_update(entry: Any, array_of: Callable[[Any], Array]) -> Update:
    """The Update of its description; `array_of` finds its "buffer". Raises ValueError with what is wrong."""
    if not isinstance(entry, dict) or entry.keys() != {"optimizer", "settings", "steps", "buffer"} \
            or entry["optimizer"] not in _KINDS:
        raise ValueError(f"host work must be an optimizer of {', '.join(_KINDS)}, got {str(entry)[:60]}")
    kind, given, steps = entry["optimizer"], entry["settings"], entry["steps"]
    names = _KINDS[kind][1]
    if not isinstance(given, dict) or given.keys() != set(names) or type(steps) is not int or not 0 <= steps < 2**53:
        raise ValueError(f"{kind} must have steps and settings {', '.join(names)}")
    settings = {n: tuple(given[n]) if isinstance(given[n], list) else given[n] for n in names}
    for name, value in settings.items():
        wanted = value if isinstance(value, tuple) else (value,)
        if len(wanted) != (2 if name == "betas" else 1) or not all(isinstance(v, (bool, int, float)) for v in wanted):
            raise ValueError(f"{kind} has {name} {str(value)[:40]}")
    update = Update(kind, settings, steps, array_of(entry["buffer"]))
    try:
        numbers = update.numbers(steps + 1)
    except ArithmeticError:
        numbers = (math.nan,)
    if not all(map(math.isfinite, numbers)) or len(numbers) != update.array.size:
        raise ValueError(f"{kind} has settings that give no finite numbers for its {update.array.size} values")
    return update
