"""From one backend to another, by way of host memory: the one op whose input and output are in different places."""

from __future__ import annotations

from ..array import Array, from_numpy
from ..backends.base import Backend
from .base import Op


class Transfer(Op):
    """A copy of x on another backend; the gradient is copied back. Waits for the device both times."""

    name = "_to"  # no case of the parity suite: it has no kernel

    def forward(self, x: Array, backend: Backend) -> Array:
        self.home = x.backend
        return from_numpy(x.numpy(), x.dtype, backend)

    def backward(self, gradient: Array) -> tuple[Array]:
        return (from_numpy(gradient.numpy(), gradient.dtype, self.home),)
