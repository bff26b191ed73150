"""Random numbers that are the same bits on every backend: the counter-based generator Philox4x32-10.

Source: Salmon, Moraes, Dror, Shaw, "Parallel Random Numbers: As Easy as 1, 2, 3", SC 2011.

A kernel is given `state` (seed low and high, base low and high) in device memory and `offset`, and makes element e from
word e % 4 of counter base + offset + e / 4 under the seed as key. So a launch of N elements uses cdiv(N, 4) counters,
which dualml.random.Generator hands out, and backward can make the same numbers again from the same two values.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from ..array import Array, Shape, from_numpy, run
from ..backends.base import Backend
from ..dtypes import DType, bfloat16, float16, int32
from ..errors import ShapeError
from ..kernel import Kernel, kernel
from ..random import Generator

_M0, _M1 = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_W0, _W1 = 0x9E3779B9, 0xBB67AE85
_LOW, _HALF = np.uint64(0xFFFFFFFF), np.uint64(32)
_CHUNK = 16384  # counters at a time: the working set stays in the cache


def philox(counters: np.ndarray, key: tuple[int, int]) -> np.ndarray:
    """Ten rounds of Philox4x32 on uint64 counters [4,n] of 32 bits each, which are overwritten by the words [4,n]."""
    c0, c1, c2, c3 = counters
    k0, k1 = key
    p0, p1 = np.empty_like(c0), np.empty_like(c0)
    for _ in range(10):
        np.multiply(c0, _M0, out=p0)
        np.multiply(c2, _M1, out=p1)
        np.right_shift(p1, _HALF, out=c0)
        c0 ^= c1
        c0 ^= np.uint64(k0)
        np.right_shift(p0, _HALF, out=c2)
        c2 ^= c3
        c2 ^= np.uint64(k1)
        np.bitwise_and(p1, _LOW, out=c1)
        np.bitwise_and(p0, _LOW, out=c3)
        k0, k1 = (k0 + _W0) & 0xFFFFFFFF, (k1 + _W1) & 0xFFFFFFFF
    return counters


def random_words(state: np.ndarray, offset: int, count: int) -> np.ndarray:
    """The first `count` random uint32 of a launch."""
    seed_low, seed_high, base_low, base_high = (int(v) for v in state)
    first = (base_low | base_high << 32) + offset
    groups = -(-count // 4)
    words = np.empty((groups, 4), np.uint32)
    for begin in range(0, groups, _CHUNK):
        n = min(_CHUNK, groups - begin)
        counters = np.zeros((4, n), np.uint64)
        position = np.arange(n, dtype=np.uint64) + np.uint64((first + begin) % 2**64)
        counters[0] = position & _LOW
        counters[1] = position >> _HALF
        words[begin:begin + n] = philox(counters, (seed_low, seed_high)).T
    return words.reshape(-1)[:count]


# ---- kernels --------------------------------------------------------------------------------------------------------

@kernel("state:u32[4] -> out[N] | N:u32 offset:u32 shift:u32 middle scale", groups="cdiv(N, 4*BLOCK)",
        software_block=64, vector="N")
def uniform_forward(state: np.ndarray, N: int, offset: int, shift: int, middle: float, scale: float) -> np.ndarray:
    """The top 32 - shift bits, as a signed distance from the middle: exact but for the product with scale."""
    whole = (random_words(state, offset, N) >> np.uint32(shift)).astype(np.int32) - np.int32(1 << (31 - shift))
    return whole.astype(np.float32) * np.float32(scale) + np.float32(middle)


@kernel("state:u32[4] -> out[N] | N:u32 offset:u32 mean spread", groups="cdiv(N, 4*BLOCK)", software_block=64,
        vector="N")
def normal_forward(state: np.ndarray, N: int, offset: int, mean: float, spread: float) -> np.ndarray:
    """Box and Muller, "A Note on the Generation of Random Normal Deviates", 1958; two words make two numbers."""
    words = random_words(state, offset, -(-N // 4) * 4).reshape(-1, 2) >> np.uint32(8)
    radius = (words[:, 0] + np.uint32(1)).astype(np.float32)
    radius *= np.float32(2.0**-24)
    np.log(radius, out=radius)
    radius *= np.float32(-2)
    np.sqrt(radius, out=radius)
    turn = words[:, 1].astype(np.float32)
    turn -= np.float32(2.0**24) * (turn >= 2.0**23)  # a full turn less: float32 angles are finer around 0
    turn *= np.float32(np.pi * 2.0**-23)
    out = np.empty_like(words, np.float32)
    np.multiply(np.cos(turn), radius, out=out[:, 0])
    np.multiply(np.sin(turn), radius, out=out[:, 1])
    out *= np.float32(spread)
    out += np.float32(mean)
    return out.reshape(-1)[:N]


@kernel("state:u32[4] -> out[N] | N:u32 offset:u32 low:i32 span:u32", groups="cdiv(N, 4*BLOCK)", software_block=64,
        vector="N", kinds={"F": "i"})
def randint_forward(state: np.ndarray, N: int, offset: int, low: int, span: int) -> np.ndarray:
    """low + (word * span) / 2^32: a number is off its share by at most span / 2^32."""
    words = random_words(state, offset, N).astype(np.uint64)
    words *= np.uint64(span)
    words >>= _HALF
    return words.astype(np.int64) + low


@kernel("x[N] state:u32[4] -> out[N] | offset:u32", groups="cdiv(N, 4*BLOCK)", software_block=64, vector="N")
def bernoulli_forward(x: np.ndarray, state: np.ndarray, offset: int) -> np.ndarray:
    """1 with probability x, else 0: 24 bits of each word against x."""
    words = random_words(state, offset, x.size) >> np.uint32(8)
    return (words.astype(np.float32) * np.float32(2.0**-24) < x).astype(x.dtype)


# ---- functions ------------------------------------------------------------------------------------------------------

def uniform(shape: Shape, dtype: DType, backend: Backend, generator: Generator, low: float = 0.0,
            high: float = 1.0) -> Array:
    """Equally spread numbers from low up to but not including high, of as many bits as the dtype holds."""
    bits = {float16: 11, bfloat16: 8}.get(dtype, 24)
    count = math.prod(shape)
    state, offset = generator.reserve(count, backend)
    out: Array = run(uniform_forward, state, types={"F": dtype}, N=count, offset=offset, shift=32 - bits,
                     middle=(low + high) / 2, scale=(high - low) * 2.0**-bits)
    return out.reshape(*shape)


def normal(shape: Shape, dtype: DType, backend: Backend, generator: Generator, mean: float = 0.0,
           std: float = 1.0) -> Array:
    """Normally distributed numbers; none is further than 5.77 std from the mean."""
    count = math.prod(shape)
    state, offset = generator.reserve(count, backend)
    out: Array = run(normal_forward, state, types={"F": dtype}, N=count, offset=offset, mean=float(mean),
                     spread=float(std))
    return out.reshape(*shape)


def randint(low: int, high: int, shape: Shape, backend: Backend, generator: Generator, dtype: DType = int32) -> Array:
    """Integers from low up to but not including high, the same on every backend."""
    if not 0 < high - low < 2**32 or not -2**31 <= low < 2**31:
        raise ShapeError(f"[randint] high must be above low by 1 to 2**32 - 1, got low {low} and high {high}.")
    count = math.prod(shape)
    state, offset = generator.reserve(count, backend)
    out: Array = run(randint_forward, state, types={"F": dtype}, N=count, offset=offset, low=int(low), span=high - low)
    return out.reshape(*shape)


def bernoulli(probability: Array, generator: Generator) -> Array:
    """Ones and zeros, of probability's shape and dtype; a one comes with the probability at its place."""
    state, offset = generator.reserve(probability.size, probability.backend)
    out: Array = run(bernoulli_forward, probability.reshape(probability.size), state, offset=offset)
    return out.reshape(*probability.shape)


def randperm(count: int, backend: Backend, generator: Generator) -> Array:
    """0 ... count - 1 in a random order, int32. Drawn on the host from the same stream: the places of sorted words."""
    offset = generator.skip(2 * count)
    words = random_words(generator.words(), offset, 2 * count).astype(np.uint64).reshape(count, 2)
    return from_numpy(np.argsort(words[:, 0] << _HALF | words[:, 1], kind="stable"), int32, backend)


def kernel_cases(rng: np.random.Generator) -> Iterator[tuple[Kernel, tuple[np.ndarray, ...], dict[str, Any]]]:
    """Sample launches of this module's kernels: kernel, inputs and scalars. The base's low word carries on the way."""
    state = np.array([12345, 678, 2**32 - 5, 9], np.uint32)
    for size in (1, 7, 64, 1029):
        yield uniform_forward, (state,), {"N": size, "offset": 3, "shift": 24, "middle": 0.5, "scale": 2.0**-8}
        yield normal_forward, (state,), {"N": size, "offset": 3, "mean": 1.0, "spread": 2.0}
        yield randint_forward, (state,), {"N": size, "offset": 3, "low": -5, "span": 2**31 + 7}
        yield bernoulli_forward, (rng.random(size), state), {"offset": 3}
