"""How many steps a run has, and the learning rate of each. A run bounded in time learns its number of steps on the way:
the plan then bends the rest of the cosine to the new end, without a jump."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from .config import TrainConfig

MOST_PAUSES = 6


@dataclass
class Plan:
    """`done` is how much of the cosine lies behind step `anchor`; the rest is spread evenly over the steps to `total`.
    `known` says whether that is the real end, or a bound until the speed has been measured. `pauses` is the number of
    validations in the run, where the settings do not say how often."""

    total: int
    anchor: int
    done: float = 0.0
    known: bool = True
    pauses: int = MOST_PAUSES

    @classmethod
    def start(cls, config: TrainConfig) -> Plan:
        return cls(config.steps, min(config.warmup, config.steps), known=config.minutes is None)

    def progress(self, step: int) -> float:
        """Share of the cosine behind a step, 0 to 1."""
        if step <= self.anchor:
            return self.done if step == self.anchor else 0.0
        return min(1.0, self.done + (1.0 - self.done) * (step - self.anchor) / max(1, self.total - self.anchor))

    def move(self, step: int, total: int) -> None:
        """Ends the run at `total` instead, seen from `step`."""
        if step > self.anchor:
            self.anchor, self.done = step, self.progress(step)
        self.total, self.known = max(total, step), True

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def learning_rate(config: TrainConfig, plan: Plan, step: int) -> float:
    """Linear over the warm-up, then half a cosine: optim.warmup_cosine on the plan's progress."""
    if step < config.warmup:
        return config.lr * (step + 1) / (config.warmup + 1)
    height = 0.5 * (1.0 + math.cos(math.pi * plan.progress(step)))
    return config.min_lr + height * (config.lr - config.min_lr)


class Clock:
    """What a step and a pause (validation, sample, checkpoint) take, to plan a run that must end in time. What the
    first ones of a process take is no measure: they compile kernels."""

    def __init__(self) -> None:
        self.step_seconds = 0.0  # a mean at first, a running mean of ten readings later; 0 until measured
        self.pause_seconds = 0.0
        self._steps = self._measured = self._pauses = 0
        self._seconds = 0.0

    @property
    def trusted(self) -> bool:
        """Whether enough was measured to plan by."""
        return self._measured >= 8 or self._seconds > 5.0

    def stepped(self, seconds: float, steps: int) -> None:
        self._steps += steps
        if self._steps > 2:
            self._measured += steps
            self._seconds += seconds
            self.step_seconds += max(0.1, steps / self._measured) * (seconds / steps - self.step_seconds)

    def paused(self, seconds: float) -> None:
        self._pauses += 1
        if self._pauses > 1:
            self.pause_seconds = max(seconds, 0.7 * self.pause_seconds)

    def pause_estimate(self, validation_batches: int) -> float:
        """Seconds of a pause; before one was measured, those of its forward passes and of a short sample."""
        return self.pause_seconds or 0.4 * self.step_seconds * validation_batches + 1.0
