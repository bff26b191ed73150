"""Initial values. Each function overwrites a tensor in place and returns it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from .. import creation
from ..errors import ShapeError
from ..tape import no_grad
from ..tensor import Tensor

_MOST_DRAWS = 1000  # of trunc_normal_
_skips: ContextVar[bool] = ContextVar("skips", default=False)


@contextmanager
def skipped() -> Iterator[None]:
    """Within it layers draw no initial values: for a model whose weights come from a file."""
    token = _skips.set(True)
    try:
        yield
    finally:
        _skips.reset(token)


def skipping() -> bool:
    """Whether initial values are left out."""
    return _skips.get()


def _fans(op: str, x: Tensor) -> tuple[int, int]:
    """Inputs and outputs of a weight [out, in, ...]."""
    if x.ndim < 2:
        raise ShapeError(f"[{op}] the tensor must have at least 2 dimensions, got shape {x.shape}.")
    field = math.prod(x.shape[2:])
    return x.shape[1] * field, x.shape[0] * field


def uniform_(x: Tensor, a: float = 0.0, b: float = 1.0) -> Tensor:
    """Uniform in [a, b)."""
    with no_grad():
        return x if skipping() else x.copy_(creation.rand_like(x) * (b - a) + a)


def normal_(x: Tensor, mean: float = 0.0, std: float = 1.0) -> Tensor:
    """Normal, of a mean and a standard deviation."""
    with no_grad():
        return x if skipping() else x.copy_(creation.randn_like(x) * std + mean)


def constant_(x: Tensor, value: float) -> Tensor:
    """One value everywhere."""
    with no_grad():
        return x.fill_(value)


def zeros_(x: Tensor) -> Tensor:
    """0 everywhere."""
    return constant_(x, 0.0)


def ones_(x: Tensor) -> Tensor:
    """1 everywhere."""
    return constant_(x, 1.0)


def xavier_uniform_(x: Tensor, gain: float = 1.0) -> Tensor:
    """Glorot and Bengio 2010: variance 2 / (fan_in + fan_out)."""
    bound = gain * math.sqrt(6.0 / sum(_fans("xavier_uniform_", x)))
    return uniform_(x, -bound, bound)


def xavier_normal_(x: Tensor, gain: float = 1.0) -> Tensor:
    """Glorot and Bengio 2010: normal of variance 2 / (fan_in + fan_out)."""
    return normal_(x, 0.0, gain * math.sqrt(2.0 / sum(_fans("xavier_normal_", x))))


def kaiming_uniform_(x: Tensor, a: float = 0.0) -> Tensor:
    """He et al. 2015 (arXiv 1502.01852): variance 2 / ((1 + a^2) fan_in), for a leaky ReLU of slope a."""
    bound = math.sqrt(6.0 / ((1.0 + a * a) * max(1, _fans("kaiming_uniform_", x)[0])))
    return uniform_(x, -bound, bound)


def kaiming_normal_(x: Tensor, a: float = 0.0) -> Tensor:
    """He et al. 2015: normal of variance 2 / ((1 + a^2) fan_in), for a leaky ReLU of slope a."""
    return normal_(x, 0.0, math.sqrt(2.0 / ((1.0 + a * a) * _fans("kaiming_normal_", x)[0])))


def trunc_normal_(x: Tensor, mean: float = 0.0, std: float = 1.0, a: float = -2.0, b: float = 2.0) -> Tensor:
    """Normal values of [a, b]: those outside are drawn again. Waits for the device. Raises ShapeError for bounds so
    far out that no draw falls between them."""
    with no_grad():
        drawn = creation.randn_like(x) * std + mean
        for _ in range(_MOST_DRAWS):
            outside = (drawn < a) | (drawn > b)
            if not outside.any():
                return x.copy_(drawn)
            drawn = (creation.randn_like(x) * std + mean).where(outside, drawn)
    raise ShapeError(f"[trunc_normal_] a and b must enclose some normal values of mean {mean} and std {std}, got {a} "
                     f"and {b}.")
