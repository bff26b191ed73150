"""Keys and values of the tokens that a model has seen, so that the next token needs only itself."""

from __future__ import annotations

from ..array import Array, empty
from ..backends.base import Backend
from ..dtypes import DType, float32
from ..errors import ShapeError
from ..ops.attention import attend_cached
from ..tape import is_grad_enabled
from ..tensor import Tensor


class KVCache:
    """A block of device memory for each layer. `length` tokens are in it; a model adds those of each forward pass.

    Args:
        capacity: tokens it has room for.
        width: kv_heads times the head size.
    """

    def __init__(self, layers: int, batch: int, capacity: int, width: int, backend: Backend,
                 dtype: DType = float32) -> None:
        shape = (batch, capacity, width)
        self.capacity, self.length = capacity, 0
        self.layers = [(empty(shape, dtype, backend), empty(shape, dtype, backend)) for _ in range(layers)]

    def attend(self, layer: int, qkv: Tensor, heads: int) -> Tensor:
        """Causal attention of new tokens [B,T,(H+2*KVH)*D] to all so far, which they join: [B,T,H*D]."""
        if is_grad_enabled() and qkv.requires_grad:
            raise ShapeError("[attention] a cache is for generating: call the model within dm.no_grad().")
        keys, values = self.layers[layer]
        return Tensor(attend_cached(qkv._array, keys, values, self.length, heads))

    def arrays(self) -> list[Array]:
        """All of its memory."""
        return [array for pair in self.layers for array in pair]
