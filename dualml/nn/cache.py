"""Keys and values of the tokens that a model has seen, so that the next token needs only itself."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..array import Array, empty, from_numpy
from ..backends.base import Backend
from ..dtypes import DType, as_dtype, bfloat16, float16, float32, float64, int32, uint32
from ..errors import DTypeError, ShapeError
from ..ops import decode
from ..ops.attention import attend_cached
from ..ops.strided import write_slice
from ..tape import is_grad_enabled
from ..tensor import Tensor

FLOATING = (float32, float64, float16, bfloat16)
FEW = 8  # new tokens that attention reads from the cache one by one; more go through in tiles


class KVCache:
    """Blocks of device memory for each layer, with room for `capacity` tokens of every sequence.

    How many tokens each sequence has is on the device (`lengths`, int32 [B]), which a captured step moves on by
    `advance`. `length` is the longest sequence's, as far as the host knows: whoever replays a captured step keeps it
    up to date.

    Args:
        capacity: tokens there is room for at first; `reserve` makes more.
        width: kv_heads times the head size.
        dtype: of keys and values; "int8" stores a byte an element, with a scale for each head and token.
        heads: kv_heads, of which int8 must know.
    """

    def __init__(self, layers: int, batch: int, capacity: int, width: int, backend: Backend,
                 dtype: DType | str = float32, heads: int = 1) -> None:
        if dtype != "int8" and dtype not in (*FLOATING, *(t.name for t in FLOATING)):
            names = ", ".join(t.name for t in FLOATING)
            raise DTypeError(f"[cache] dtype must be one of {names} or \"int8\", got {dtype!r}.")
        self.bytes = dtype == "int8"
        self.dtype = uint32 if dtype == "int8" else as_dtype(dtype)
        self.batch, self.capacity, self.width, self.heads = batch, capacity, width, heads
        self.length, self.even = 0, True  # whether all sequences are as long
        self.lengths = from_numpy(np.zeros(batch, np.int32), int32, backend)
        self.layers = [self._block(backend) for _ in range(layers)]

    def _block(self, backend: Backend) -> tuple[Array, ...]:
        """Keys and values of a layer, and in 8 bits their scales."""
        shape = (self.batch, self.capacity, self.width // (4 if self.bytes else 1))
        both = empty(shape, self.dtype, backend), empty(shape, self.dtype, backend)
        scales = (2, self.batch, self.capacity, self.heads)
        return (*both, empty(scales, float32, backend)) if self.bytes else both

    def reserve(self, steps: int) -> None:
        """Makes room for so many tokens more, at least doubling what there is."""
        if self.length + steps <= self.capacity:
            return
        self.capacity = max(self.length + steps, 2 * self.capacity)
        self.layers = [tuple(map(self._copied, layer, self._block(layer[0].backend))) for layer in self.layers]

    @staticmethod
    def _copied(old: Array, new: Array) -> Array:
        write_slice(new, old, (0,) * old.ndim, (1,) * old.ndim)
        return new

    def set_lengths(self, lengths: Sequence[int]) -> None:
        """What the host knows better: 0 to begin anew, or the lengths of prompts that were padded."""
        self.lengths.write(np.asarray(lengths, np.int32))
        self.length, self.even = max(lengths, default=0), len(set(lengths)) < 2

    def advance(self, steps: int) -> None:
        """Every sequence is so many tokens longer."""
        decode.advance(self.lengths, steps)
        self.length += steps

    def positions(self, steps: int) -> Tensor:
        """int32 [B,steps]: the positions of new tokens."""
        return Tensor(decode.positions(self.lengths, steps))

    def starts(self) -> Tensor:
        """int32 [B]: the position of each sequence's first new token."""
        return Tensor(self.lengths)

    def attend(self, layer: int, qkv: Tensor, heads: int, kv_heads: int) -> Tensor:
        """Causal attention of new tokens [B,T,(H+2*KVH)*D] to all so far, which they join: [B,T,H*D]."""
        if is_grad_enabled() and qkv.requires_grad:
            raise ShapeError("[attention] a cache is for generating: call the model within dm.no_grad().")
        steps, block = qkv.shape[1], self.layers[layer]
        if self.length + steps > self.capacity:
            raise ShapeError(f"[attention] the cache has room for {self.capacity} tokens, got {self.length} and "
                             f"{steps} more.")
        decode.append(qkv._array, self.lengths, block, heads, kv_heads)
        if steps <= FEW or (self.length and (self.bytes or not self.even)):
            return Tensor(decode.attend(qkv._array, self.lengths, block, heads, kv_heads))
        return Tensor(attend_cached(qkv._array, block, self.length, heads, kv_heads))
