"""torch.nn.utils, as far as it is here."""

from __future__ import annotations

from collections.abc import Iterable

from ..tensor import Tensor
from .module import Parameter


def clip_grad_norm_(parameters: Iterable[Parameter] | Parameter, max_norm: float) -> Tensor:
    """optim.clip_grad_norm_ under the name that PyTorch has for it: scales all gradients in place so that their norm is
    at most max_norm, and returns the norm before, a scalar tensor. Nothing waits."""
    from ..optim import clip_grad_norm_ as clip
    return clip([parameters] if isinstance(parameters, Parameter) else parameters, max_norm)
