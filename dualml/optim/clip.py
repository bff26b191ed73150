"""Clipping by the global norm, without a host read."""

from __future__ import annotations

from collections.abc import Iterable

from ..errors import GradientError
from ..nn.module import Parameter
from ..ops.optimizer import clip_, grad_norm
from ..tensor import Tensor
from .arena import gradient_arrays


def clip_grad_norm_(parameters: Iterable[Parameter], max_norm: float) -> Tensor:
    """Scales all gradients in place by min(1, max_norm / (norm + 1e-6)); returns the norm before, a scalar tensor.

    Norm and scale stay on the device; nothing waits.
    """
    arrays = gradient_arrays(parameters)
    if not arrays:
        raise GradientError("[clip_grad_norm_] no parameter has a gradient. Call backward first.")
    norm = grad_norm(arrays)
    for array in arrays:
        clip_(array, norm, max_norm)
    return Tensor(norm)
