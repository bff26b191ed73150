"""Losses as modules, each over the function of nn.functional that has its name."""

from __future__ import annotations

from .. import functional as F
from ..dims import check_number
from ..errors import ShapeError
from ..tensor import Tensor
from .module import Module


class _Loss(Module):
    """What losses share: how the values are reduced, by mean, sum or none."""

    def __init__(self, reduction: str = "mean") -> None:
        super().__init__()
        if reduction not in ("mean", "sum", "none"):
            raise ShapeError(f"[{type(self).__name__}] reduction must be mean, sum or none, got {reduction!r}.")
        self.reduction = reduction

    def extra_repr(self) -> str:
        return f"reduction={self.reduction!r}"


class CrossEntropyLoss(_Loss):
    """Softmax cross entropy of logits [..., V] and int32 classes [...], in one fused kernel. Where V pads them, the
    first `classes` logits are those of classes."""

    def __init__(self, *, ignore_index: int = -100, reduction: str = "mean", label_smoothing: float = 0.0,
                 classes: int | None = None) -> None:
        super().__init__(reduction)
        check_number("CrossEntropyLoss", "label_smoothing", label_smoothing, 0.0, 1.0)
        self.ignore_index, self.label_smoothing, self.classes = ignore_index, label_smoothing, classes

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(logits, target, self.ignore_index, self.reduction, self.label_smoothing, self.classes)


class NLLLoss(_Loss):
    """-log p[class] of log probabilities [N, C] and int32 classes [N]."""

    def __init__(self, *, ignore_index: int = -100, reduction: str = "mean") -> None:
        super().__init__(reduction)
        self.ignore_index = ignore_index

    def forward(self, log_probabilities: Tensor, target: Tensor) -> Tensor:
        return F.nll_loss(log_probabilities, target, self.reduction, self.ignore_index)


class MSELoss(_Loss):
    """(x - target)^2."""

    def forward(self, x: Tensor, target: Tensor) -> Tensor:
        return F.mse_loss(x, target, self.reduction)


class L1Loss(_Loss):
    """|x - target|."""

    def forward(self, x: Tensor, target: Tensor) -> Tensor:
        return F.l1_loss(x, target, self.reduction)


class BCEWithLogitsLoss(_Loss):
    """-log of the probability sigmoid(x) gives to target in [0, 1], stable for any x."""

    def forward(self, x: Tensor, target: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(x, target, self.reduction)
