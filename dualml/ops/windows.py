"""Batches drawn on the device: windows of a token stream that lies there, at random places.

`state` says which batch: a seed, a stream (one for training, one for validation) and the batch's number, two words
each, low word first. It is in device memory and moves on by one with every launch, so that a captured step reads on at
each replay. The random words are NumPy's: Philox4x64-10 with seed and stream as key, where batch n has the counters
(c, 0, 0, n) for c = 1, 2, ... Source: Salmon, Moraes, Dror, Shaw, "Parallel Random Numbers: As Easy as 1, 2, 3", SC
2011. So a batch is what dualml.data.WindowBatches gathers on the host, bit for bit.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from ..array import Array, run
from ..kernel import Kernel, kernel


def philox64(seed: int, stream: int, number: int) -> np.random.Philox:
    """What gives a batch's random words. (NumPy takes lists for float64 where they hold large integers.)"""
    return np.random.Philox(key=np.array([seed, stream], np.uint64), counter=np.array([0, 0, 0, number], np.uint64))


# ---- kernels --------------------------------------------------------------------------------------------------------


@kernel("&state:u32[6] -> starts:i32[B] | B:u32 places:u32", groups="1", block=64, software_block=8)
def batch_starts(state: np.ndarray, B: int, places: int) -> tuple[np.ndarray, np.ndarray]:
    """Where the batch's B windows begin, each in [0, places): the upper half of (word >> 32) * places. One workgroup
    does it all, so that the state is read before it changes."""
    seed, stream, number = (int(low) | int(high) << 32 for low, high in state.reshape(3, 2))
    drawn = philox64(seed, stream, number).random_raw(B)
    after = (number + 1) % 2**64
    state[4:] = after & 0xFFFFFFFF, after >> 32
    return state, ((drawn >> np.uint64(32)) * np.uint64(places) >> np.uint64(32)).astype(np.int32)


@kernel("tokens:i32[N] starts:i32[B] -> x:i32[B,T] y:i32[B,T] | T:u32", groups="cdiv(B*T, BLOCK)", software_block=64)
def token_windows(tokens: np.ndarray, starts: np.ndarray, T: int) -> tuple[np.ndarray, np.ndarray]:
    """T tokens from each start on, and the same moved on by one; -1, which no embedding has, outside the stream."""
    places = starts.astype(np.int64)[:, None] + np.arange(T + 1)
    inside = (places >= 0) & (places < len(tokens))
    found = tokens[places] if inside.all() else np.full(places.shape, -1, np.int32)
    if not inside.all():
        found[inside] = tokens[places[inside]]
    return np.ascontiguousarray(found[:, :-1]), np.ascontiguousarray(found[:, 1:])


# ---- functions ------------------------------------------------------------------------------------------------------

def batch_words(seed: int, stream: int, number: int) -> np.ndarray:
    """The `state` of batch `number`, uint32 [6]."""
    return np.array([seed, stream, number], "<u8").view(np.uint32)


def draw_windows(tokens: Array, state: Array, batch: int, context: int) -> tuple[Array, Array]:
    """Inputs and targets, int32 [batch,context] each, of the batch that `state` names, which moves on to the next.

    Args:
        tokens: int32 [N], more than `context` of them.
    """
    starts = run(batch_starts, state, B=batch, places=tokens.size - context)
    x, y = run(token_windows, tokens, starts, T=context)
    return x, y


def kernel_cases(rng: np.random.Generator) -> Iterator[tuple[Kernel, tuple[np.ndarray, ...], dict[str, Any]]]:
    """Sample launches. The number's low word carries on the way, and so do products of halves."""
    for size, places in ((1, 1), (7, 1000), (64, 2**31 - 1), (301, 2**31 - 5)):
        for seed, stream, number in ((0, 0, 0), (2**63 - 1, 1, 2**32 - 1), (2**64 - 1, 0, 2**64 - 1)):
            yield batch_starts, (batch_words(seed, stream, number),), {"B": size, "places": places}
    for count, size, context in ((2, 3, 1), (50, 7, 5), (1000, 3, 300), (40, 4, 16), (10, 0, 4)):
        tokens = rng.integers(0, 2**31 - 1, count).astype(np.int32)
        starts = rng.integers(0, count - context, size).astype(np.int32)
        yield token_windows, (tokens, starts), {"T": context}
        yield token_windows, (tokens, np.full(size, count - 1, np.int32)), {"T": context}
        yield token_windows, (tokens, np.full(size, -1, np.int32)), {"T": context}
