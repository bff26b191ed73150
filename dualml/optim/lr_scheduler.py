"""PyTorch's schedulers by name: each group's rate is its first one times a factor of the step.

What is set is a function of the count alone, so a scheduler that is loaded, or stepped in a captured program, goes on
as one that never stopped.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..dims import check_number, check_sizes
from ..errors import ShapeError
from .optimizer import Optimizer
from .schedules import LRScheduler


class _Rates(LRScheduler):
    """A scheduler whose rates start from those the optimizer's groups have when it is made."""

    def __init__(self, optimizer: Optimizer) -> None:
        self.base_lrs = [float(group["lr"]) for group in optimizer.param_groups]
        super().__init__(optimizer, lambda _: 0.0)

    def rate(self, base: float, group: int, count: int) -> float:
        """The rate of a group after `count` steps."""
        raise NotImplementedError

    def _set(self) -> None:
        for number, (group, base) in enumerate(zip(self.optimizer.param_groups, self.base_lrs, strict=True)):
            group["lr"] = self.rate(base, number, self.count)

    def state_dict(self) -> dict[str, Any]:
        """The count of steps and the first rates."""
        return {"last_epoch": self.count, "base_lrs": list(self.base_lrs)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on where state_dict was called, and sets the rates of there."""
        if len(state["base_lrs"]) != len(self.base_lrs):
            raise ShapeError(f"[scheduler] base_lrs must hold a rate for each of {len(self.base_lrs)} groups, got "
                             f"{len(state['base_lrs'])}.")
        self.count, self.base_lrs = int(state["last_epoch"]), [float(v) for v in state["base_lrs"]]
        self._set()


class LambdaLR(_Rates):
    """Each group's first rate times lr_lambda(step).

    Args:
        lr_lambda: a function of the number of steps so far, or one for each group.
    """

    def __init__(self, optimizer: Optimizer, lr_lambda: Callable[[int], float] | Sequence[Callable[[int], float]]
                 ) -> None:
        groups = len(optimizer.param_groups)
        self.lr_lambdas = [lr_lambda] * groups if callable(lr_lambda) else list(lr_lambda)
        if len(self.lr_lambdas) != groups:
            raise ShapeError(f"[LambdaLR] lr_lambda must hold a function for each of {groups} groups, got "
                             f"{len(self.lr_lambdas)}.")
        super().__init__(optimizer)

    def rate(self, base: float, group: int, count: int) -> float:
        return base * self.lr_lambdas[group](count)


class StepLR(_Rates):
    """Multiplies the rates by gamma every step_size steps."""

    def __init__(self, optimizer: Optimizer, step_size: int, gamma: float = 0.1) -> None:
        check_sizes("StepLR", step_size=step_size)
        check_number("StepLR", "gamma", gamma)
        self.step_size, self.gamma = step_size, gamma
        super().__init__(optimizer)

    def rate(self, base: float, group: int, count: int) -> float:
        return base * self.gamma ** (count // self.step_size)


class CosineAnnealingLR(_Rates):
    """Half a cosine from the first rates to eta_min in T_max steps, and back (Loshchilov and Hutter 2016, arXiv
    1608.03983, without restarts)."""

    def __init__(self, optimizer: Optimizer, T_max: int, eta_min: float = 0.0) -> None:
        check_sizes("CosineAnnealingLR", T_max=T_max)
        check_number("CosineAnnealingLR", "eta_min", eta_min)
        self.T_max, self.eta_min = T_max, eta_min
        super().__init__(optimizer)

    def rate(self, base: float, group: int, count: int) -> float:
        return self.eta_min + 0.5 * (1.0 + math.cos(math.pi * count / self.T_max)) * (base - self.eta_min)
