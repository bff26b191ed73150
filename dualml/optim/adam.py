"""Adam (Kingma and Ba 2014, arXiv 1412.6980) and AdamW (Loshchilov and Hutter 2017, arXiv 1711.05101)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..array import Array
from ..ops.optimizer import adamw_step
from .optimizer import Groups, Optimizer


class AdamW(Optimizer):
    """Adam with decoupled weight decay. Same update as torch.optim.AdamW.

    Args:
        params: parameters, or groups: dicts with "params" and any of the settings below.
        lr: learning rate.
        betas: decay of the running means of the gradient and of its square.
        eps: added to the root of the second mean.
        weight_decay: share of lr by which weights shrink each step.
    """

    decoupled = True

    def __init__(self, params: Groups, lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8,
                 weight_decay: float = 1e-2) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    def state_names(self, group: Mapping[str, Any]) -> tuple[str, ...]:
        return "exp_avg", "exp_avg_sq"

    def hyper(self, group: Mapping[str, Any], step: int) -> tuple[float, ...]:
        beta1, beta2 = group["betas"]
        return (group["lr"], beta1, 1.0 - beta1, beta2, 1.0 - beta2, group["eps"], group["weight_decay"],
                1.0 / (1.0 - beta1**step), 1.0 / (1.0 - beta2**step))

    def launch(self, group: Mapping[str, Any], *arrays: Array) -> None:
        adamw_step(*arrays, decoupled=self.decoupled)


class Adam(AdamW):
    """Adam with L2 regularisation in the gradient. Same update as torch.optim.Adam."""

    decoupled = False

    def __init__(self, params: Groups, lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8,
                 weight_decay: float = 0.0) -> None:
        super().__init__(params, lr, betas, eps, weight_decay)
