"""Stochastic gradient descent with momentum."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..array import Array
from ..errors import ShapeError
from ..ops.optimizer import sgd_step
from .optimizer import Groups, Optimizer


class SGD(Optimizer):
    """Same update as torch.optim.SGD, momentum and nesterov included.

    Args:
        params: parameters, or groups: dicts with "params" and any of the settings below.
        lr: learning rate.
        momentum: share of the last step that is kept; 0 is plain gradient descent.
        dampening: share of the gradient left out of the momentum.
        weight_decay: L2 penalty added to the gradient.
        nesterov: look ahead along the momentum; needs momentum > 0 and dampening = 0.
    """

    state_names = ("momentum_buffer",)

    def __init__(self, params: Groups, lr: float = 1e-3, momentum: float = 0.0, dampening: float = 0.0,
                 weight_decay: float = 0.0, nesterov: bool = False) -> None:
        if nesterov and (momentum <= 0 or dampening != 0):
            raise ShapeError("[sgd] nesterov needs momentum > 0 and dampening = 0.")
        super().__init__(params, {"lr": lr, "momentum": momentum, "dampening": dampening,
                                  "weight_decay": weight_decay, "nesterov": nesterov})

    def hyper(self, group: Mapping[str, Any]) -> tuple[float, ...]:
        # the first step's momentum is the gradient itself, without dampening
        plain = self.step_count == 1 or not group["momentum"]
        return (group["lr"], group["momentum"], 0.0 if plain else group["dampening"], group["weight_decay"],
                1.0 if group["nesterov"] else 0.0, 1.0)

    def launch(self, group: Mapping[str, Any], *arrays: Array) -> None:
        values, gradients, momentum, hyper = arrays
        sgd_step(values, gradients, momentum, hyper)
