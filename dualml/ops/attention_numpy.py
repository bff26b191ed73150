"""Attention in NumPy, which the references of its kernels share: blocks of queries, so that scores stay in a cache.

Everything is seen as [B,KVH,group,tokens,D]: query heads that share a key head are a group, and keys and values, whose
group has size 1, broadcast over it. `n` has the sizes and strides of a launch.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np

from .blocks import each

_QUERIES = 128        # blocks of so many queries
_SCORES = 1 << 18     # and of about so many scores
_LOW, _HIGH = -30.0, 20.0  # scores between have exponentials, and sums of them, far from a float's limits


def _heads(x: np.ndarray, at: int, group: int, tokens: int, strides: str, n: dict[str, Any]) -> np.ndarray:
    """View [B,KVH,group,tokens,D] of a buffer of rows."""
    shape = (n["B"], n["KVH"], group, tokens, x.shape[1])
    if not math.prod(shape):
        return np.empty(shape, x.dtype)
    row, item = x.strides
    b, t, h = (n[f"{strides}_{axis}"] * row for axis in "bth")
    return np.ndarray(shape, x.dtype, x, at * row, (b, h * group, h, t, item))


def queries(x: np.ndarray, strides: str, n: dict[str, Any], token: int = 0) -> np.ndarray:
    """The TQ queries from a token on, or what is laid out as they are."""
    x = x if x.ndim == 2 else x[:, None]
    return _heads(x, token * n[f"{strides}_t"], n["H"] // n["KVH"], n["TQ"], strides, n)


def keys(x: np.ndarray, at: int, n: dict[str, Any], token: int = 0) -> np.ndarray:
    """The TK keys from a token on, or values, where row `at` is token 0's first."""
    return _heads(x, at + token * n["k_t"], 1, n["TK"], "k", n)


def _each(n: dict[str, Any], work: Callable[[slice, slice, int, bool], None]) -> None:
    """work(batches, queries, how many keys these queries see, whether the batches are new), most keys first. Batches
    are shared out among the cores."""
    size = max(1, min(n["TQ"], _QUERIES, max(16, 8 * _SCORES // max(1, n["H"] * n["TK"]))))
    step = max(1, min(_SCORES // max(1, n["H"] * size * n["TK"]), n["B"] // 4))
    starts = range(0, n["TQ"], size)

    def one(batches: slice) -> None:
        for i in reversed(starts):
            stop = min(n["TQ"], i + size)
            work(batches, slice(i, stop), min(n["TK"], stop + n["offset"]), i == starts[-1])
    each([slice(b, b + step) for b in range(0, n["B"], step)], one)


@lru_cache(64)
def _hidden(queries: int, keys: int, seen: int) -> np.ndarray:
    """Which scores [queries,keys] are hidden where the first query sees `seen` keys, each further one a key more."""
    hidden: np.ndarray = np.arange(keys) >= seen + np.arange(queries)[:, None]
    return hidden


def _scores(q: np.ndarray, k: np.ndarray) -> np.ndarray:
    result: np.ndarray = np.matmul(q, k.swapaxes(-1, -2))
    return result


def _hide(s: np.ndarray, seen: int) -> None:
    """Makes scores -inf where keys are hidden."""
    if seen < s.shape[-1]:
        np.copyto(s, -np.inf, where=_hidden(*s.shape[-2:], seen))  # whatever was there, NaN too


def _tops(s: np.ndarray) -> np.ndarray | None:
    """What to subtract from scores [...,keys] before exponentials, after keys were hidden: of a row with scores near a
    float's limits its largest, of others 0. None: nothing at all, which is found sooner. A row's first
    key stands for its largest, which is no smaller. Each row by itself: a token's result must not depend on others."""
    first = s[..., :1]
    if first.min() > _LOW and s.max() < _HIGH:
        return None
    tops: np.ndarray = s.max(-1, keepdims=True)
    tops[(first > _LOW) & (tops < _HIGH)] = 0
    return tops


def _accumulate(total: np.ndarray, a: np.ndarray, b: np.ndarray, new: bool) -> None:
    """total = or += aᵀ b, summed over the query heads of a group; a new total is zero."""
    if new and a.shape[2] == 1:
        np.matmul(a.swapaxes(-1, -2), b, out=total)
    else:
        total += np.matmul(a.swapaxes(-1, -2), b).sum(2, keepdims=True)


def forward(q: np.ndarray, k: np.ndarray, v: np.ndarray, out: np.ndarray, lse: np.ndarray, scale: float,
            n: dict[str, Any]) -> None:
    """Fills out and lse, which are zeros."""
    if not n["TK"]:
        return

    def work(b: slice, i: slice, seen: int, new: bool) -> None:
        p = _scores(q[b, :, :, i] * q.dtype.type(scale), k[b, :, :, :seen])
        _hide(p, i.start + n["offset"] + 1)
        tops = _tops(p)
        if tops is not None:
            p -= tops
        total = np.vecdot(np.exp(p, out=p), np.ones(seen, p.dtype))[..., None]
        here = np.matmul(p, v[b, :, :, :seen], out=out[b, :, :, i])
        here /= total
        np.log(total, out=lse[b, :, :, i])
        if tops is not None:
            lse[b, :, :, i] += tops
    _each(n, work)


def backward(q: np.ndarray, k: np.ndarray, v: np.ndarray, dout: np.ndarray, lse: np.ndarray, delta: np.ndarray,
             dq: np.ndarray, dk: np.ndarray, dv: np.ndarray, scale: float, n: dict[str, Any]) -> None:
    """Fills dq, dk and dv, which are zeros."""
    factor = q.dtype.type(scale)

    def work(b: slice, i: slice, seen: int, new: bool) -> None:
        qi, ki, di = q[b, :, :, i] * factor, k[b, :, :, :seen], dout[b, :, :, i]
        p = _scores(qi, ki)
        p -= lse[b, :, :, i]
        _hide(p, i.start + n["offset"] + 1)
        np.exp(p, out=p)
        ds = np.matmul(di, v[b, :, :, :seen].swapaxes(-1, -2))
        ds -= delta[b, :, :, i]
        ds *= p
        here = np.matmul(ds, ki, out=dq[b, :, :, i])
        here *= factor
        _accumulate(dv[b, :, :, :seen], p, di, new)
        _accumulate(dk[b, :, :, :seen], ds, qi, new)
    _each(n, work)
