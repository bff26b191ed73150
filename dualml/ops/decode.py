"""Decoding: attention of a few new tokens to all before them, whose keys and values are in a cache on the device.

Source: Flash-Decoding (Dao, Haziza, Massa, Sizov 2023): the cache is cut into `parts`, each a workgroup's, and the
parts' results are weighed by their sums of exponentials afterwards.

A cache of S places has the rows of D elements (b*S + s)*KVH + h, one buffer for keys and one for values. How many
places of each sequence are taken is in device memory (`lengths`), so that a recorded step can be replayed while they
grow. In 8 bits a row is D integers, four to a u32, times the row's largest magnitude / 127.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from ..array import Array, run
from ..errors import ShapeError
from ..kernel import Kernel, Scalar, kernel
from .attention import MAX_D

PART = 256    # places of a cache that one workgroup looks through
LOW = -3e38   # below every score
_SIZES = "T:u32 H:u32 KVH:u32 S:u32"

# ---- kernels --------------------------------------------------------------------------------------------------------


def _new(rows: np.ndarray, lengths: np.ndarray, T: int, H: int, KVH: int, S: int) -> tuple[Any, Any, Any]:
    """Rows of new keys and values [B*T,2*KVH,D] for which there is room, with the numbers of their rows [n,KVH]."""
    batch = len(lengths)
    new = rows.reshape(batch * T, H + 2 * KVH, rows.shape[1])[:, H:]
    at = (lengths[:, None] + np.arange(T)).reshape(-1)
    room = (at >= 0) & (at < S)
    places = np.repeat(np.arange(batch) * S, T) + at
    where = places[room, None] * KVH + np.arange(KVH)
    return new[room, :KVH], new[room, KVH:], where


@kernel(f"rows[N,D] lengths:i32[B] &keys[M,D] &values[M,D] | {_SIZES}", groups="cdiv(B*T*2*KVH*(D//W), BLOCK)",
        block=64, static="D", vector="D")
def cache_append(rows: np.ndarray, lengths: np.ndarray, keys: np.ndarray, values: np.ndarray, **n: int) -> Any:
    """Keys and values of packed rows [B*T*(H+2*KVH),D] go to the places after each sequence's length."""
    new_keys, new_values, where = _new(rows, lengths, **n)
    keys[where], values[where] = new_keys, new_values
    return keys, values


@kernel(f"rows[N,D] lengths:i32[B] &keys:u32[M,D//4] &values:u32[M,D//4] &scales:f32[2*M] | M:u32 {_SIZES}",
        groups="cdiv(B*T*2*KVH, BLOCK)", block=64, static="D", vector="D")
def cache_append_int8(rows: np.ndarray, lengths: np.ndarray, keys: np.ndarray, values: np.ndarray,
                      scales: np.ndarray, M: int, **n: int) -> Any:
    """cache_append in 8 bits."""
    new_keys, new_values, where = _new(rows, lengths, **n)
    for new, words, start in ((new_keys, keys, 0), (new_values, values, M)):
        top = np.abs(new).max(-1, keepdims=True).astype(np.float32)
        units = new / np.where(top > 0, top, 1)
        whole = np.floor(units.astype(np.float32) * np.float32(127) + np.float32(0.5)).astype(np.int8)
        words[where] = whole.view("<u4")
        scales[start + where] = top[..., 0]
    return keys, values, scales


def _attend(rows: np.ndarray, lengths: np.ndarray, keys: Any, values: Any, T: int, H: int, KVH: int, S: int, P: int,
            scale: float) -> tuple[np.ndarray, np.ndarray]:
    """`keys(b, begin, end)` and `values(...)` are [end-begin,KVH,D]."""
    batch, size, per = len(lengths), rows.shape[1], -(-S // P)
    out, lse = np.zeros((batch, T, KVH, H // KVH, P, size), rows.dtype), None
    lse = np.full(out.shape[:-1], LOW, rows.dtype)
    q = rows.reshape(batch, T, H + 2 * KVH, size)[:, :, :H].reshape(batch, T, KVH, H // KVH, size)
    for b, t, part in np.ndindex(batch, T, P):
        begin, end = part * per, min(S, max(0, int(lengths[b])) + t + 1, (part + 1) * per)
        if begin < end:
            s = np.matmul(q[b, t], keys(b, begin, end).transpose(1, 2, 0))  # [KVH,H//KVH,n]
            s *= rows.dtype.type(scale)
            top = s.max(-1, keepdims=True)
            s -= top
            total = np.exp(s, out=s).sum(-1, keepdims=True)
            out[b, t, :, :, part] = np.matmul(s, values(b, begin, end).transpose(1, 0, 2)) / total
            lse[b, t, :, :, part] = (np.log(total) + top)[..., 0]
    return out.reshape(-1, size), lse.reshape(-1)


@kernel(f"rows[N,D] lengths:i32[B] keys[M,D] values[M,D] -> out[B*T*H*P,D] lse:f32[B*T*H*P] | {_SIZES} P:u32 scale",
        groups="B*T*H*P", block=128, software_block=32, static="D", vector="D")
def decode_attention(rows: np.ndarray, lengths: np.ndarray, keys: np.ndarray, values: np.ndarray, *, KVH: int, S: int,
                     **n: Any) -> Any:
    """Attention of the queries of packed rows to a cache that their own keys are in already: `P` results for each,
    with the log of each sum of exponentials (LOW where a part has no key yet)."""
    k, v = (x.reshape(-1, S, KVH, x.shape[1]) for x in (keys, values))
    return _attend(rows, lengths, lambda b, i, j: k[b, i:j], lambda b, i, j: v[b, i:j], KVH=KVH, S=S, **n)


@kernel("rows[N,D] lengths:i32[B] keys:u32[M,D//4] values:u32[M,D//4] scales:f32[2*M] "
        f"-> out[B*T*H*P,D] lse:f32[B*T*H*P] | M:u32 {_SIZES} P:u32 scale",
        groups="B*T*H*P", block=128, software_block=32, static="D", vector="D")
def decode_attention_int8(rows: np.ndarray, lengths: np.ndarray, keys: np.ndarray, values: np.ndarray,
                          scales: np.ndarray, *, KVH: int, S: int, M: int, **n: Any) -> Any:
    """decode_attention on a cache in 8 bits."""
    def side(words: np.ndarray, tops: np.ndarray) -> Any:
        whole, top = words.view(np.int8).reshape(-1, S, KVH, rows.shape[1]), tops.reshape(-1, S, KVH, 1)

        def stretch(b: int, begin: int, end: int) -> np.ndarray:
            found: np.ndarray = whole[b, begin:end] * (top[b, begin:end] / np.float32(127)).astype(rows.dtype)
            return found
        return stretch
    return _attend(rows, lengths, side(keys, scales[:M]), side(values, scales[M:]), KVH=KVH, S=S, **n)


@kernel("part[R,D] lse:f32[R] -> out[R//P,D] | P:u32", groups="cdiv(R//P*(D//W), BLOCK)", block=64, static="D",
        vector="D")
def decode_merge(part: np.ndarray, lse: np.ndarray, P: int) -> Any:
    """The parts of each query weighed by their shares of its sum of exponentials."""
    logs = lse.reshape(-1, P)
    shares = np.exp(logs - logs.max(1, keepdims=True))
    shares /= shares.sum(1, keepdims=True)
    return np.einsum("rp,rpd->rd", shares, part.reshape(-1, P, part.shape[1])).astype(part.dtype)


@kernel("&lengths:i32[B] | steps:i32", groups="cdiv(B, BLOCK)", block=64)
def cache_advance(lengths: np.ndarray, steps: int) -> Any:
    """Each sequence is so many tokens longer."""
    lengths += np.int32(steps)
    return lengths


@kernel("lengths:i32[B] -> out:i32[B,T] | T:u32", groups="cdiv(B*T, BLOCK)", block=64)
def cache_positions(lengths: np.ndarray, T: int) -> Any:
    """Positions of T new tokens of each sequence."""
    return (lengths[:, None] + np.arange(T)).astype(np.int32)


# ---- what a cache calls ---------------------------------------------------------------------------------------------

def _sizes(qkv: Array, lengths: Array, keys: Array, heads: int, kv_heads: int) -> tuple[dict[str, Any], int]:
    """The kernels' scalars, and D."""
    (batch, tokens, width), size = qkv.shape, keys.shape[2] * (4 if keys.dtype.kind == "i" else 1) // kv_heads
    if width != (heads + 2 * kv_heads) * size or heads % kv_heads or keys.shape[0] != batch:
        raise ShapeError(f"[decode] qkv {qkv.shape} for {heads} heads and {kv_heads} of keys does not fit a cache of "
                         f"{keys.shape[0]} sequences and head size {size}.")
    if size % 4 or not 4 <= size <= MAX_D:
        raise ShapeError(f"[decode] the head size must be a multiple of 4 from 4 to {MAX_D}, got {size}.")
    return {"T": tokens, "H": heads, "KVH": kv_heads, "S": keys.shape[1]}, size


def _rows(x: Array, size: int) -> Array:
    return x.reshape(x.size // size, size)


def append(qkv: Array, lengths: Array, layer: tuple[Array, ...], heads: int, kv_heads: int) -> None:
    """The keys and values of packed projections [B,T,(H+2*KVH)*D] go to the places after each sequence's length;
    those beyond the last place go nowhere.

    Args:
        layer: keys and values [B,S,KVH*D], or in 8 bits uint32 [B,S,KVH*D/4] with float32 scales [2,B,S,KVH].
    """
    sizes, size = _sizes(qkv, lengths, layer[0], heads, kv_heads)
    if len(layer) == 3:
        words = [_rows(x, size // 4) for x in layer[:2]]
        run(cache_append_int8, _rows(qkv, size), lengths, *words, layer[2].reshape(layer[2].size),
            M=words[0].shape[0], **sizes)
    else:
        run(cache_append, _rows(qkv, size), lengths, *[_rows(x, size) for x in layer], **sizes)


def attend(qkv: Array, lengths: Array, layer: tuple[Array, ...], heads: int, kv_heads: int) -> Array:
    """Causal attention of tokens that `append` has put into the cache: [B,T,H*D]. Without a gradient."""
    sizes, size = _sizes(qkv, lengths, layer[0], heads, kv_heads)
    room = layer[0].shape[1]
    parts = 1 if qkv.backend.device.software or qkv.backend.name == "cpu" else -(-room // PART)
    scalars = {**sizes, "P": parts, "scale": size ** -0.5}
    if len(layer) == 3:
        words = [_rows(x, size // 4) for x in layer[:2]]
        out, lse = run(decode_attention_int8, _rows(qkv, size), lengths, *words, layer[2].reshape(layer[2].size),
                       M=words[0].shape[0], **scalars)
    else:
        out, lse = run(decode_attention, _rows(qkv, size), lengths, *[_rows(x, size) for x in layer], **scalars)
    if parts > 1:
        out = run(decode_merge, out, lse, P=parts)
    found: Array = out.reshape(*qkv.shape[:2], heads * size)
    return found


def advance(lengths: Array, steps: int) -> None:
    """Each sequence of `lengths` int32 [B] is so many tokens longer."""
    run(cache_advance, lengths, steps=steps)


def positions(lengths: Array, steps: int) -> Array:
    """int32 [B,steps]: the positions of the tokens that come after `lengths` int32 [B]."""
    found: Array = run(cache_positions, lengths, T=steps)
    return found


def kernel_cases(rng: np.random.Generator) -> Iterator[tuple[Kernel, tuple[np.ndarray, ...], dict[str, Scalar]]]:
    """Sample launches of this module's kernels."""
    for lengths, T, H, KVH, S, D, P in (
            ([0], 1, 1, 1, 1, 4, 1), ([3, 0], 1, 2, 2, 7, 8, 1), ([5, 2], 3, 4, 2, 9, 12, 2), ([8], 2, 2, 1, 9, 16, 1),
            ([290, 17], 1, 3, 1, 300, 36, 3), ([140], 1, 2, 2, 150, 128, 2), ([40], 2, 2, 2, 64, 64, 1)):
        batch, sizes = len(lengths), {"T": T, "H": H, "KVH": KVH, "S": S}
        rows = rng.standard_normal((batch * T * (H + 2 * KVH), D))
        keys, values = rng.standard_normal((2, batch * S * KVH, D))
        at = np.array(lengths, np.int32)
        yield cache_append, (rows, at, keys, values), {**sizes}
        yield decode_attention, (rows, at, keys, values), {**sizes, "P": P, "scale": D ** -0.5}
        words = rng.integers(-127, 128, (2, batch * S * KVH, D), np.int8).view(np.uint32)
        scales = rng.uniform(0.1, 2.0, 2 * batch * S * KVH)
        M = batch * S * KVH
        yield decode_attention_int8, (rows, at, *words, scales), {**sizes, "M": M, "P": P, "scale": D ** -0.5}
        whole = np.round(rows * 40).clip(-126, 126)  # far from the middle between two integers
        whole[:, 0] = 127
        yield cache_append_int8, (whole / 16, at, *words, scales), {**sizes, "M": M}
        logs = rng.standard_normal(len(keys))
        logs[1:2] = -6e4
        R = len(keys) // P * P
        yield decode_merge, (keys[:R], logs[:R]), {"P": P}
        yield cache_advance, (at,), {"steps": T}
        yield cache_positions, (at,), {"T": T}
