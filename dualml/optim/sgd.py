"""Stochastic gradient descent with momentum."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..array import Array
from ..errors import ShapeError
from ..ops.optimizer import sgd_momentum_step, sgd_step
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

    def __init__(self, params: Groups, lr: float = 1e-3, momentum: float = 0.0, dampening: float = 0.0,
                 weight_decay: float = 0.0, nesterov: bool = False) -> None:
        if nesterov and (momentum <= 0 or dampening != 0):
            raise ShapeError("[sgd] nesterov needs momentum > 0 and dampening = 0.")
        super().__init__(params, {"lr": lr, "momentum": momentum, "dampening": dampening,
                                  "weight_decay": weight_decay, "nesterov": nesterov})

    def state_names(self, group: Mapping[str, Any]) -> tuple[str, ...]:
        return ("momentum_buffer",) if group["momentum"] else ()

    def hyper(self, group: Mapping[str, Any], step: int) -> tuple[float, ...]:
        momentum = group["momentum"]
        if not momentum:
            return group["lr"], group["weight_decay"]
        new = 1.0 if step == 1 else 1.0 - group["dampening"]  # the first step's momentum is the gradient itself
        return group["lr"], group["weight_decay"], momentum, new, 1.0 if group["nesterov"] else 0.0

    def launch(self, group: Mapping[str, Any], *arrays: Array) -> None:
        (sgd_momentum_step if group["momentum"] else sgd_step)(*arrays)
