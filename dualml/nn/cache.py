"""Keys and values of the tokens that a model has seen, so that the next token needs only itself."""

from __future__ import annotations

from ..array import Array, empty
from ..backends.base import Backend
from ..dtypes import DType, float32
from ..errors import ShapeError
from ..ops.attention import attend_cached
from ..ops.strided import write_slice
from ..tape import is_grad_enabled
from ..tensor import Tensor


class KVCache:
    """Blocks of device memory for each layer. `length` tokens are in them; a model adds those of each forward pass.

    Args:
        capacity: tokens there is room for at first; `reserve` makes more.
        width: kv_heads times the head size.
    """

    def __init__(self, layers: int, batch: int, capacity: int, width: int, backend: Backend,
                 dtype: DType = float32) -> None:
        shape = (batch, capacity, width)
        self.capacity, self.length = capacity, 0
        self.layers = [(empty(shape, dtype, backend), empty(shape, dtype, backend)) for _ in range(layers)]

    def reserve(self, steps: int) -> None:
        """Makes room for so many tokens more, at least doubling what there is."""
        if self.length + steps <= self.capacity:
            return
        self.capacity = max(self.length + steps, 2 * self.capacity)
        self.layers = [(self._grown(keys), self._grown(values)) for keys, values in self.layers]

    def _grown(self, old: Array) -> Array:
        made = empty((old.shape[0], self.capacity, old.shape[2]), old.dtype, old.backend)
        write_slice(made, old, (0, 0, 0), (1, 1, 1))
        return made

    def attend(self, layer: int, qkv: Tensor, heads: int, kv_heads: int) -> Tensor:
        """Causal attention of new tokens [B,T,(H+2*KVH)*D] to all so far, which they join: [B,T,H*D]."""
        if is_grad_enabled() and qkv.requires_grad:
            raise ShapeError("[attention] a cache is for generating: call the model within dm.no_grad().")
        keys, values = self.layers[layer]
        return Tensor(attend_cached(qkv._array, keys, values, self.length, heads, kv_heads))
