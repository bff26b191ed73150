"""Attention of sequences of different lengths that lie one after another in one row of tokens, none of them padded.

Sequence i has the tokens from starts[i] to before starts[i+1], the `cu_seqlens` of FlashAttention's varlen functions
(Dao, arXiv 2307.08691). They are in device memory and nobody else reads them: a recorded step can be replayed while
they change. starts[0] is taken as 0. Tokens after the last sequence belong to none: they give 0 and get no gradient.
Starts that fall or lie outside give no sensible result, but nothing outside the tensors is read or written.

The sources are those of attention, in which a workgroup finds its sequence first. Among workgroups of ROWS tokens,
sequence i has those from starts[i] // ROWS + i on, which are enough however the sequences lie, and can be searched
without a table; those that are too many return.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import accumulate, pairwise
from typing import Any

import numpy as np

from ..array import Array
from ..dtypes import int32
from ..errors import DTypeError, ShapeError
from ..kernel import KERNELS, make_kernel
from . import attention_numpy as host
from .attention import HALVES, SCALARS, _Attention, check_heads, declare_variants
from .base import BadCase, Case, Gradients
from .blocks import each

# ---- kernels --------------------------------------------------------------------------------------------------------


def _sequences(starts: np.ndarray, n: dict[str, Any]) -> list[tuple[int, dict[str, Any]]]:
    """First token of every sequence, and the sizes of a launch for it alone."""
    bounds = [0, *np.maximum.accumulate(np.clip(starts[1:], 0, n["TQ"])).tolist()]
    return [(a, n | {"TQ": b - a, "TK": b - a}) for a, b in pairwise(bounds) if a < b]


def _forward(q: np.ndarray, k: np.ndarray, v: np.ndarray, starts: np.ndarray, *, scale: float, k_at: int, v_at: int,
             **n: Any) -> Any:
    """attention_forward for each sequence."""
    out, lse = np.zeros((n["H"] * n["TQ"], q.shape[1]), q.dtype), np.zeros(n["H"] * n["TQ"], q.dtype)
    found = _sequences(starts, n)

    def work(some: slice) -> None:
        for a, m in found[some]:
            host.forward(host.queries(q, "q", m, a), host.keys(k, k_at, m, a), host.keys(v, v_at, m, a),
                         host.queries(out, "o", m, a), host.queries(lse, "o", m, a), scale, m)
    each([slice(i, i + 1) for i in range(len(found))], work)
    return out, lse


def _backward(q: np.ndarray, k: np.ndarray, v: np.ndarray, dout: np.ndarray, lse: np.ndarray, delta: np.ndarray,
              starts: np.ndarray, *, scale: float, k_at: int, v_at: int, gk_at: int, gv_at: int, **n: Any) -> Any:
    """attention_backward for each sequence."""
    grad = np.zeros((n["NG"], q.shape[1]), q.dtype)
    found = _sequences(starts, n)

    def work(some: slice) -> None:
        for a, m in found[some]:
            host.backward(host.queries(q, "q", m, a), host.keys(k, k_at, m, a), host.keys(v, v_at, m, a),
                          host.queries(dout, "o", m, a), host.queries(lse, "o", m, a), host.queries(delta, "o", m, a),
                          host.queries(grad, "q", m, a), host.keys(grad, gk_at, m, a), host.keys(grad, gv_at, m, a),
                          scale, m)
    each([slice(i, i + 1) for i in range(len(found))], work)
    return grad


_TILES = "{heads}*({tokens}//{rows}+S)"
attention_varlen_forward = make_kernel(
    _forward, f"q[NQ,D] k[NK,D] v[NK,D] starts:i32[S] -> out[H*TQ,D] lse:f32[H*TQ] | {SCALARS}",
    name="attention_varlen_forward", groups=_TILES.format(heads="H", tokens="TQ", rows="(BLOCK//2)"), block=128,
    static="D", vector="D", source="attention_forward", context={"varlen": True})
attention_varlen_backward = make_kernel(
    _backward, "q[NQ,D] k[NK,D] v[NK,D] dout[NO,D] lse:f32[NO] delta:f32[NO] starts:i32[S] -> grad[NG,D] | "
    f"{SCALARS} NG:u32 gk_at:u32 gv_at:u32", name="attention_varlen_backward",
    groups="+".join(_TILES.format(heads=h, tokens=t, rows="(BLOCK//2)") for h, t in (("H", "TQ"), ("KVH", "TK"))),
    block=128, static="D", vector="D", source="attention_backward", context={"varlen": True})
KERNELS.update({k.name: k for k in (attention_varlen_forward, attention_varlen_backward)})
declare_variants(attention_varlen_forward, attention_varlen_backward, _TILES)


# ---- ops ------------------------------------------------------------------------------------------------------------

class _Varlen(_Attention):
    kernels = (attention_varlen_forward, attention_varlen_backward)

    def _check_starts(self, starts: Array) -> None:
        if starts.dtype is not int32:
            raise DTypeError(f"[{self.name}] cu_seqlens must be int32, got {starts.dtype.name}. "
                             "Cast it with .to(int32).")
        if starts.ndim != 1 or not starts.size:
            raise ShapeError(f"[{self.name}] cu_seqlens must be [sequences+1], where each sequence begins and where "
                             f"the last ends, got shape {starts.shape}.")


def _starts(*lengths: int) -> np.ndarray:
    return np.array([0, *accumulate(lengths)], np.int32)


class AttentionVarlenQkv(_Varlen):
    """Self-attention of a packed qkv [T,(H+2*KVH)*D] within each sequence."""

    def forward(self, qkv: Array, cu_seqlens: Array, *, heads: int, kv_heads: int | None = None, causal: bool = False,
                scale: float | None = None) -> Array:
        """out [T,H*D]."""
        kv_heads = heads if kv_heads is None else kv_heads
        if qkv.ndim != 2:
            raise ShapeError(f"[{self.name}] qkv must be [T,(heads+2*kv_heads)*D], got shape {qkv.shape}.")
        all_heads = heads + 2 * kv_heads
        if all_heads < 1 or qkv.shape[1] % all_heads:
            raise ShapeError(f"[{self.name}] qkv's last dimension must be a multiple of heads + 2*kv_heads = "
                             f"{all_heads}, got {qkv.shape[1]}.")
        tokens, size = qkv.shape[0], qkv.shape[1] // all_heads
        check_heads(self.name, heads, kv_heads, size)
        self._check_starts(cu_seqlens)
        out = self._forward(size, qkv, qkv, qkv, scale, {
            "B": 1, "H": heads, "KVH": kv_heads, "TQ": tokens, "TK": tokens, "offset": 0 if causal else tokens,
            "q_b": 0, "q_t": all_heads, "q_h": 1, "k_at": heads, "v_at": heads + kv_heads,
            "k_b": 0, "k_t": all_heads, "k_h": 1, "o_b": 0, "o_t": heads, "o_h": 1}, cu_seqlens)
        self.shape = qkv.shape
        return out.reshape(tokens, heads * size)

    def backward(self, dout: Array) -> Gradients:
        grad = self._backward(dout, self.into[0] if self.into else None, {
            "NG": math.prod(self.shape) // self.size, "gk_at": self.scalars["k_at"], "gv_at": self.scalars["v_at"]})
        return grad.reshape(*self.shape), None

    @classmethod
    def cases(cls, rng: np.random.Generator) -> Iterator[Case]:
        for name, lengths, unused, (heads, kv_heads, size), options in (
                ("causal", (3, 1, 5), 0, (2, 2, 8), {"causal": True}),
                ("full", (4, 2), 0, (2, 2, 4), {}),
                ("grouped_empty", (0, 4, 0, 0, 5, 0), 2, (4, 2, 12), {"causal": True, "kv_heads": 2}),
                ("one_key_head", (7,), 0, (3, 1, 8), {"causal": True, "kv_heads": 1, "scale": 0.3}),
                ("no_sequence", (), 3, (1, 1, 4), {}),
                ("no_token", (0, 0), 0, (1, 1, 4), {"causal": True}),
                ("tiles", (33, 66, 64, 1, 67), 70, (2, 1, 36), {"causal": True, "kv_heads": 1}),
                ("full_tiles", (70, 0, 59), 1, (1, 1, 64), {}),
                ("head_128", (31, 36), 0, (2, 1, 128), {"kv_heads": 1})):
            qkv = rng.standard_normal((sum(lengths) + unused, (heads + 2 * kv_heads) * size))
            yield Case(name, (qkv, _starts(*lengths)), {"heads": heads, **options}, differentiable=len(qkv) < 30)
        for packed, unused, heads, kv_heads, size, causal in (
                ((129, 3, 0, 140), 5, 2, 1, 64, True), ((70, 66, 1), 130, 1, 1, 32, False),
                ((65, 67), 0, 2, 2, 128, True), ((3, 130, 2), 1, 2, 1, 96, True)):
            qkv = rng.standard_normal((sum(packed) + unused, (heads + 2 * kv_heads) * size))
            yield Case(f"tensor_cores_{size}", (qkv, _starts(*packed)),
                       {"heads": heads, "kv_heads": kv_heads, "causal": causal}, HALVES, differentiable=False)

    @classmethod
    def bad_cases(cls) -> Iterator[BadCase]:
        qkv, starts = np.zeros((6, 48)), _starts(4, 2)
        yield BadCase("rank", (qkv[None], starts), r"\[attention_varlen_qkv\] qkv must be \[T,", {"heads": 2})
        yield BadCase("width", (qkv, starts), "last dimension must be a multiple", {"heads": 3})
        yield BadCase("heads", (np.zeros((6, 56)), starts), "number of key heads", {"heads": 3, "kv_heads": 2})
        yield BadCase("size", (np.zeros((6, 36)), starts), "head size must be a multiple of 4", {"heads": 2})
        yield BadCase("no_starts", (qkv, starts[:0]), r"cu_seqlens must be \[sequences\+1\]", {"heads": 2})
        yield BadCase("float_starts", (qkv, np.zeros(3)), "cu_seqlens must be int32, got float", {"heads": 2})


class AttentionVarlen(_Varlen):
    """Self-attention of q [T,H,D] to k, v [T,KVH,D] within each sequence."""

    def forward(self, q: Array, k: Array, v: Array, cu_seqlens: Array, *, causal: bool = False,
                scale: float | None = None) -> Array:
        """out [T,H,D]."""
        if q.ndim != 3 or k.ndim != 3:
            raise ShapeError(f"[{self.name}] q and k must be [T,heads,D], got shapes {q.shape} and {k.shape}.")
        (tokens, heads, size), kv_heads = q.shape, k.shape[1]
        if k.shape != v.shape or k.shape != (tokens, kv_heads, size):
            raise ShapeError(f"[{self.name}] k and v must have one shape, with q's tokens and head size, got "
                             f"q {q.shape}, k {k.shape}, v {v.shape}.")
        check_heads(self.name, heads, kv_heads, size)
        self._check_starts(cu_seqlens)
        out = self._forward(size, q, k, v, scale, {
            "B": 1, "H": heads, "KVH": kv_heads, "TQ": tokens, "TK": tokens, "offset": 0 if causal else tokens,
            "q_b": 0, "q_t": heads, "q_h": 1, "k_at": 0, "v_at": 0, "k_b": 0, "k_t": kv_heads, "k_h": 1,
            "o_b": 0, "o_t": heads, "o_h": 1}, cu_seqlens)
        self.shapes = q.shape, k.shape, k.shape
        return out.reshape(*q.shape)

    def backward(self, dout: Array) -> Gradients:
        return (*self._in_one_buffer(dout, *self.shapes), None)

    @classmethod
    def cases(cls, rng: np.random.Generator) -> Iterator[Case]:
        for name, lengths, unused, (heads, kv_heads, size), options, dtypes in (
                ("full", (3, 5), 0, (2, 2, 8), {}, ("float32", *HALVES)),
                ("causal", (1, 0, 7), 1, (4, 2, 12), {"causal": True, "scale": -0.3}, ("float32", *HALVES)),
                ("no_sequence", (), 2, (2, 1, 4), {}, ("float32", *HALVES)),
                ("tiles", (70, 3, 68), 0, (2, 1, 20), {"causal": True}, ("float32",)),
                ("tensor_cores", (66, 64, 40), 65, (2, 1, 64), {"causal": True}, HALVES)):
            tokens = sum(lengths) + unused
            q, (k, v) = rng.standard_normal((tokens, heads, size)), rng.standard_normal((2, tokens, kv_heads, size))
            yield Case(name, (q, k, v, _starts(*lengths)), options, dtypes, differentiable=tokens < 30)

    @classmethod
    def bad_cases(cls) -> Iterator[BadCase]:
        q, k, starts = np.zeros((5, 4, 8)), np.zeros((5, 2, 8)), _starts(2, 3)
        yield BadCase("rank", (q[None], k, k, starts), r"\[attention_varlen\] q and k must be \[T,heads,D\]")
        yield BadCase("values", (q, k, k[:, :1], starts), r"\[attention_varlen\] k and v must have one shape")
        yield BadCase("tokens", (q, k[1:], k[1:], starts), "with q's tokens and head size")
        yield BadCase("heads", (q[:, 1:], k, k, starts), "multiple of the number of key heads, got 3 and 2")
        yield BadCase("starts", (q, k, k, starts[None]), r"cu_seqlens must be \[sequences\+1\]")
