"""Learning rate schedules: plain functions of the step, and a small driver that sets an optimizer's rate."""

from __future__ import annotations

import math
from collections.abc import Callable

from ..runtime import replayed
from .optimizer import Optimizer


def _warm(step: int, warmup: int) -> float:
    return (step + 1) / (warmup + 1)


def warmup_cosine(step: int, peak: float, floor: float, warmup: int, total: int) -> float:
    """Rises linearly to peak over warmup steps, falls along a half cosine to floor at step total, and stays."""
    if step < warmup:
        return peak * _warm(step, warmup)
    if step >= total:
        return floor
    done = (step - warmup) / max(1, total - warmup)
    return floor + 0.5 * (1.0 + math.cos(math.pi * done)) * (peak - floor)


def warmup_linear(step: int, peak: float, floor: float, warmup: int, total: int) -> float:
    """Rises linearly to peak over warmup steps, falls linearly to floor at step total, and stays."""
    if step < warmup:
        return peak * _warm(step, warmup)
    done = min(1.0, (step - warmup) / max(1, total - warmup))
    return peak + done * (floor - peak)


class LRScheduler:
    """Sets every group's lr to schedule(step) now, and again at each step()."""

    def __init__(self, optimizer: Optimizer, schedule: Callable[[int], float], step: int = 0) -> None:
        self.optimizer, self.schedule, self.count = optimizer, schedule, step
        self._set()

    def _set(self) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = self.schedule(self.count)

    def step(self) -> None:
        """Counts a step and sets the rates of the next one; call it after optimizer.step()."""
        replayed(self._advance)

    def _advance(self) -> None:
        self.count += 1
        self._set()

    def get_last_lr(self) -> list[float]:
        """The learning rate of each group, as it is now."""
        return [group["lr"] for group in self.optimizer.param_groups]
