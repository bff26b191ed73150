"""Clipping by the global norm, without a host read."""

from __future__ import annotations

from collections.abc import Iterable

from ..array import Array
from ..errors import GradientError
from ..nn.module import Parameter
from ..ops.optimizer import clip_, grad_norm as _norm, grad_squares as _squares
from ..tensor import Tensor
from .arena import gradient_arrays


def grad_norm(parameters: Iterable[Parameter]) -> Tensor:
    """The L2 norm of all gradients together, a scalar tensor. Nothing waits."""
    return Tensor(_norm(_gradients("grad_norm", parameters)))


def grad_squares(parameters: Iterable[Parameter]) -> Tensor:
    """Sums of squares of all gradients [M], whose total is the square of their norm, for amp.LossScaler.factor."""
    return Tensor(_squares(_gradients("grad_norm", parameters)))


def _gradients(name: str, parameters: Iterable[Parameter]) -> list[Array]:
    arrays = gradient_arrays(parameters)
    if not arrays:
        raise GradientError(f"[{name}] no parameter has a gradient. Call backward first.")
    return arrays


def clip_grad_norm_(parameters: Iterable[Parameter], max_norm: float) -> Tensor:
    """Scales all gradients in place by min(1, max_norm / (norm + 1e-6)); returns the norm before, a scalar tensor.

    Norm and scale stay on the device; nothing waits.
    """
    arrays = _gradients("clip_grad_norm_", parameters)
    norm = _norm(arrays)
    for array in arrays:
        clip_(array, norm, max_norm)
    return Tensor(norm)
