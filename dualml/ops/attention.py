"""Attention: out = softmax(scale q kᵀ + mask) v, per head, with no score matrix in memory.

Source: FlashAttention-2 (Dao 2023, arXiv 2307.08691), algorithms 1 and 2: tiles of keys stream past tiles of queries
under an online softmax; backward makes the probabilities P = exp(scale q kᵀ - lse) again and, with dP = dout vᵀ and
delta = rowsum(dout out), has dS = P (dP - delta), dv = Pᵀ dout, dq = scale dS k, dk = scale dSᵀ q.

Query i sees the keys j <= i + offset. `offset` is the number of keys before query 0: 0 is PyTorch's is_causal, the
length of a cache makes decoding causal, and the number of keys makes attention full. A query that sees no key (where
there are none) gives 0 and no gradient.

The kernels read q, k, v where they lie. A buffer is rows of D elements: head h of token t of batch b is the row
at + b*_b + t*_t + h*_h, so that a packed qkv [B,T,(H+2*KVH)*D] and separate [B,H,T,D] differ in a few numbers. `out`,
`dout`, `lse` and `delta` share one order of rows (o_b, o_t, o_h); `grad` has dq at row 0, dk at gk_at and dv at gv_at,
with the strides of q and k. Query head h reads key head h // (H // KVH): grouped-query attention (arXiv 2305.13245).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any, ClassVar

import numpy as np

from ..array import Array, run
from ..dtypes import bfloat16, float16
from ..errors import ShapeError
from ..kernel import DeviceInfo, Kernel, Scalar, kernel
from . import attention_numpy as host
from .base import BadCase, Case, Gradients, Op

MAX_D = 128           # the largest head: a row of accumulators must fit in an invocation's registers
HALVES = ("float16", "bfloat16")
SCALARS = ("B:u32 H:u32 KVH:u32 TQ:u32 TK:u32 offset:u32 scale "
           "q_b:u32 q_t:u32 q_h:u32 k_at:u32 v_at:u32 k_b:u32 k_t:u32 k_h:u32 o_b:u32 o_t:u32 o_h:u32")


# ---- kernels --------------------------------------------------------------------------------------------------------

@kernel(f"q[NQ,D] k[NK,D] v[NK,D] -> out[B*H*TQ,D] lse:f32[B*H*TQ] | {SCALARS}",
        groups="B*H*cdiv(TQ,BLOCK//2)", block=128, static="D", vector="D")
def attention_forward(q: np.ndarray, k: np.ndarray, v: np.ndarray, *, scale: float, k_at: int, v_at: int,
                      **n: Any) -> Any:
    """Attention of every query, and the log of its sum of exponentials, which backward normalises by."""
    out, lse = np.zeros((n["B"] * n["H"] * n["TQ"], q.shape[1]), q.dtype), np.zeros(n["B"] * n["H"] * n["TQ"], q.dtype)
    host.forward(host.queries(q, "q", n), host.keys(k, k_at, n), host.keys(v, v_at, n), host.queries(out, "o", n),
                 host.queries(lse, "o", n), scale, n)
    return out, lse


@kernel("out[N,D] dout[N,D] -> delta:f32[N]", groups="cdiv(N,BLOCK)", block=64, software_block=8,
        static="D", vector="D")
def attention_backward_delta(out: np.ndarray, dout: np.ndarray) -> Any:
    """delta = rowsum(dout out), which is rowsum(P dP)."""
    return np.einsum("nd,nd->n", out, dout)


@kernel("q[NQ,D] k[NK,D] v[NK,D] dout[NO,D] lse:f32[NO] delta:f32[NO] -> grad[NG,D] | "
        f"{SCALARS} NG:u32 gk_at:u32 gv_at:u32",
        groups="B*H*cdiv(TQ,BLOCK//2)+B*KVH*cdiv(TK,BLOCK//2)", block=128, static="D", vector="D")
def attention_backward(q: np.ndarray, k: np.ndarray, v: np.ndarray, dout: np.ndarray, lse: np.ndarray,
                       delta: np.ndarray, *, scale: float, k_at: int, v_at: int, gk_at: int, gv_at: int,
                       **n: Any) -> np.ndarray:
    """dq, dk and dv in one buffer. The first workgroups own a tile of queries each, the others a tile of keys, and sum
    over what streams past in a fixed order. Rows between the three, which only align dk and dv, become zero."""
    grad = np.zeros((n["NG"], q.shape[1]), q.dtype)
    host.backward(host.queries(q, "q", n), host.keys(k, k_at, n), host.keys(v, v_at, n), host.queries(dout, "o", n),
                  host.queries(lse, "o", n), host.queries(delta, "o", n), host.queries(grad, "q", n),
                  host.keys(grad, gk_at, n), host.keys(grad, gv_at, n), scale, n)
    return grad


def _fits(queries: float, size: float, device: DeviceInfo, n: Mapping[str, Scalar]) -> bool:
    """On CPU drivers with subgroups, up to so many queries and so large a head."""
    return device.software and device.subgroup_size > 0 and n["TQ"] <= queries and n["D"] <= size


def _tensor_cores(largest: int, device: DeviceInfo, n: Mapping[str, Scalar]) -> bool:
    """With mma.sync, ldmatrix and cp.async; rows must begin at multiples of 16 bytes, which the head size sees to."""
    return device.arch >= 80 and n["D"] % 32 == 0 and n["D"] <= largest and n["TQ"] > 0


def declare_variants(forward: Kernel, backward: Kernel, tiles: str) -> None:
    """The faster ways of both kernels. `tiles` is how many tiles of {rows} of {heads} heads and {tokens} there are."""
    def groups(query_rows: str, key_rows: str = "") -> str:
        found = tiles.format(rows=query_rows, heads="H", tokens="TQ")
        return f"{found}+{tiles.format(rows=key_rows, heads='KVH', tokens='TK')}" if key_rows else found

    # R, RQ and RK are the rows of a lane: the more, the fewer loads, but all must stay near the registers.
    for number, limits in ((1, (8, MAX_D)), (4, (math.inf, 64)), (2, (math.inf, MAX_D))):
        forward.variant("subgroup", "webgpu", partial(_fits, *limits), groups=groups("(R*BLOCK)"), block=0,
                        constants={"R": number})
    for number, limits in ((2, (math.inf, 64)), (1, (math.inf, MAX_D))):
        backward.variant("subgroup", "webgpu", partial(_fits, *limits), groups=groups("(RQ*BLOCK)", "(RK*BLOCK)"),
                         block=0, constants={"RQ": 2, "RK": number})
    # ROWS are owned by a workgroup, COLS stream past, two such tiles in shared memory: as many as registers hold. A
    # warp owns 32 rows, so that a fragment read from shared memory serves two products; 16 where sums need the room.
    for limit, streamed, owned in ((64, 64, 128), (MAX_D, 32, 64)):
        forward.variant("mma", "cuda", partial(_tensor_cores, limit), groups=groups("ROWS"), block=128,
                        constants={"ROWS": 128, "COLS": streamed}, dtypes=(float16, bfloat16))
        backward.variant("mma", "cuda", partial(_tensor_cores, limit), groups=groups("ROWS", "ROWS"), block=128,
                         constants={"ROWS": owned, "COLS": 32}, dtypes=(float16, bfloat16))


declare_variants(attention_forward, attention_backward, "B*{heads}*cdiv({tokens},{rows})")


# ---- ops ------------------------------------------------------------------------------------------------------------

def check_heads(op: str, heads: int, kv_heads: int, size: int) -> None:
    if heads < 1 or kv_heads < 1 or heads % kv_heads:
        raise ShapeError(f"[{op}] the number of heads must be a multiple of the number of key heads, got {heads} and "
                         f"{kv_heads}. Choose kv_heads that divides heads.")
    if size % 4 or not 4 <= size <= MAX_D:
        raise ShapeError(f"[{op}] the head size must be a multiple of 4 from 4 to {MAX_D}, got {size}. "
                         "Choose another number of heads, or pad each head with zeros.")


def _rows(x: Array, size: int) -> Array:
    return x.reshape(x.size // size, size)


class _Attention(Op):
    """What all layouts share: forward sets the kernels' scalars, backward uses them again."""

    kernels: ClassVar[tuple[Kernel, Kernel]] = (attention_forward, attention_backward)

    def _forward(self, size: int, q: Array, k: Array, v: Array, scale: float | None, scalars: dict[str, Any],
                 *starts: Array) -> Array:
        self.size = size
        self.scalars = scalars | {"scale": size ** -0.5 if scale is None else scale}
        q, k, v = _rows(q, size), _rows(k, size), _rows(v, size)
        out: Array
        out, lse = run(self.kernels[0], q, k, v, *starts, **self.scalars)
        self.save(q, k, v, out, lse, *starts)
        return out

    def _backward(self, dout: Array, into: Array | None, places: dict[str, Any]) -> Array:
        q, k, v, out, lse, *starts = self.saved
        dout = _rows(dout, self.size)
        delta = run(attention_backward_delta, out, dout)
        grad: Array = run(self.kernels[1], q, k, v, dout, lse, delta, *starts, out=(into,), **self.scalars, **places)
        return grad

    def _in_one_buffer(self, dout: Array, *shapes: tuple[int, ...]) -> Gradients:
        """The gradients of q, k and v, as views of one buffer that begin where the backend's alignment lets them."""
        row = self.size * dout.backend.storage(dout.dtype).itemsize
        align = math.lcm(dout.backend.alignment, row) // row
        queries, keys = (math.prod(shape) // self.size for shape in shapes[:2])
        gk_at = -(-queries // align) * align
        gv_at = gk_at + -(-keys // align) * align
        grad = self._backward(dout, None, {"NG": gv_at + keys, "gk_at": gk_at, "gv_at": gv_at})
        return tuple(grad.slot(at * self.size, shape) for at, shape in zip((0, gk_at, gv_at), shapes, strict=True))


class AttentionQkv(_Attention):
    """Self-attention of a packed qkv [B,T,(H+2*KVH)*D], as one linear layer makes it: queries, keys, values."""

    def forward(self, qkv: Array, *, heads: int, kv_heads: int | None = None, causal: bool = False,
                scale: float | None = None) -> Array:
        """out [B,T,H*D]."""
        kv_heads = heads if kv_heads is None else kv_heads
        if qkv.ndim != 3:
            raise ShapeError(f"[{self.name}] qkv must be [B,T,(heads+2*kv_heads)*D], got shape {qkv.shape}.")
        all_heads = heads + 2 * kv_heads
        if all_heads < 1 or qkv.shape[2] % all_heads:
            raise ShapeError(f"[{self.name}] qkv's last dimension must be a multiple of heads + 2*kv_heads = "
                             f"{all_heads}, got {qkv.shape[2]}.")
        (batch, tokens, width), size = qkv.shape, qkv.shape[2] // all_heads
        check_heads(self.name, heads, kv_heads, size)
        out = self._forward(size, qkv, qkv, qkv, scale, {
            "B": batch, "H": heads, "KVH": kv_heads, "TQ": tokens, "TK": tokens, "offset": 0 if causal else tokens,
            "q_b": tokens * all_heads, "q_t": all_heads, "q_h": 1, "k_at": heads, "v_at": heads + kv_heads,
            "k_b": tokens * all_heads, "k_t": all_heads, "k_h": 1, "o_b": tokens * heads, "o_t": heads, "o_h": 1})
        self.shape = (batch, tokens, width)
        return out.reshape(batch, tokens, heads * size)

    def backward(self, dout: Array) -> Gradients:
        grad = self._backward(dout, self.into[0] if self.into else None, {
            "NG": math.prod(self.shape) // self.size, "gk_at": self.scalars["k_at"], "gv_at": self.scalars["v_at"]})
        return (grad.reshape(*self.shape),)

    @classmethod
    def cases(cls, rng: np.random.Generator) -> Iterator[Case]:
        for name, (batch, tokens, heads, kv_heads, size), options in (
                ("causal", (2, 5, 2, 2, 8), {"causal": True}),
                ("full", (1, 7, 2, 2, 4), {}),
                ("grouped", (2, 6, 4, 2, 12), {"causal": True, "kv_heads": 2}),
                ("one_key_head", (1, 9, 3, 1, 8), {"causal": True, "kv_heads": 1, "scale": 0.3}),
                ("one_token", (2, 1, 1, 1, 4), {"causal": True}),
                ("no_token", (2, 0, 2, 2, 4), {"causal": True}),
                ("no_batch", (0, 3, 2, 2, 4), {}),
                ("two_tiles", (1, 67, 1, 1, 32), {"causal": True}),
                ("tiles", (1, 130, 2, 1, 36), {"causal": True, "kv_heads": 1}),
                ("head_64", (1, 33, 1, 1, 64), {"causal": True}),
                ("head_128", (1, 35, 2, 1, 128), {"kv_heads": 1})):
            qkv = rng.standard_normal((batch, tokens, (heads + 2 * kv_heads) * size))
            yield Case(name, (qkv,), {"heads": heads, **options}, differentiable=tokens < 30)
        for batch, tokens, heads, kv_heads, size, causal in (
                (1, 131, 2, 1, 64, True), (2, 140, 1, 1, 32, False), (1, 67, 2, 2, 128, True), (1, 65, 2, 1, 96, True)):
            qkv = rng.standard_normal((batch, tokens, (heads + 2 * kv_heads) * size))
            yield Case(f"tensor_cores_{size}", (qkv,), {"heads": heads, "kv_heads": kv_heads, "causal": causal},
                       HALVES, differentiable=False)

    @classmethod
    def bad_cases(cls) -> Iterator[BadCase]:
        qkv = np.zeros((2, 3, 48))
        yield BadCase("rank", (qkv[0],), r"\[attention_qkv\] qkv must be \[B,T,", {"heads": 2})
        yield BadCase("width", (qkv,), r"\[attention_qkv\] qkv's last dimension must be a multiple", {"heads": 3})
        yield BadCase("heads", (np.zeros((2, 3, 56)),), "the number of key heads", {"heads": 3, "kv_heads": 2})
        yield BadCase("no_heads", (qkv,), "the number of key heads", {"heads": 2, "kv_heads": 0})
        yield BadCase("odd_size", (np.zeros((2, 3, 36)),), "head size must be a multiple of 4", {"heads": 2})
        yield BadCase("large_size", (np.zeros((1, 2, 3 * 132)),), "from 4 to 128, got 132", {"heads": 1})


class Attention(_Attention):
    """Attention of q [B,H,TQ,D] to k, v [B,KVH,TK,D]: PyTorch's scaled_dot_product_attention, with an offset."""

    def forward(self, q: Array, k: Array, v: Array, *, causal: bool = False, scale: float | None = None,
                offset: int = 0) -> Array:
        """out [B,H,TQ,D]. Where causal, query i sees the keys j <= i + offset."""
        if q.ndim != 4 or k.ndim != 4:
            raise ShapeError(f"[{self.name}] q and k must be [B,heads,T,D], got shapes {q.shape} and {k.shape}.")
        (batch, heads, queries, size), (kv_heads, keys) = q.shape, k.shape[1:3]
        if k.shape != v.shape or (k.shape[0], k.shape[3]) != (batch, size):
            raise ShapeError(f"[{self.name}] k and v must have one shape, with q's batch and head size, got "
                             f"q {q.shape}, k {k.shape}, v {v.shape}.")
        check_heads(self.name, heads, kv_heads, size)
        if offset < 0:
            raise ShapeError(f"[{self.name}] offset must be 0 or more, got {offset}. It counts the keys before "
                             "query 0.")
        out = self._forward(size, q, k, v, scale, {
            "B": batch, "H": heads, "KVH": kv_heads, "TQ": queries, "TK": keys,
            "offset": min(offset, keys) if causal else keys,
            "q_b": heads * queries, "q_t": 1, "q_h": queries, "k_at": 0, "v_at": 0,
            "k_b": kv_heads * keys, "k_t": 1, "k_h": keys, "o_b": heads * queries, "o_t": 1, "o_h": queries})
        self.shapes = q.shape, k.shape, k.shape
        return out.reshape(*q.shape)

    def backward(self, dout: Array) -> Gradients:
        return self._in_one_buffer(dout, *self.shapes)

    @classmethod
    def cases(cls, rng: np.random.Generator) -> Iterator[Case]:
        for name, (batch, heads, kv_heads, queries, keys, size), options in (
                ("full", (2, 2, 2, 5, 7, 8), {}),
                ("causal_wide", (1, 2, 2, 4, 9, 8), {"causal": True}),
                ("causal_tall", (1, 2, 1, 9, 4, 8), {"causal": True}),
                ("offset", (2, 2, 1, 3, 8, 12), {"causal": True, "offset": 5}),
                ("far_offset", (1, 1, 1, 3, 8, 4), {"causal": True, "offset": 100}),
                ("decode", (2, 4, 2, 1, 9, 16), {"causal": True, "offset": 8, "scale": 0.5}),
                ("no_key", (2, 2, 2, 3, 0, 8), {}),
                ("no_query", (2, 2, 1, 0, 3, 8), {"causal": True}),
                ("tiles", (1, 2, 1, 70, 100, 20), {"causal": True, "offset": 30}),
                ("wide_tiles", (1, 1, 1, 40, 66, 64), {}),
                ("head_128", (1, 1, 1, 66, 35, 128), {"causal": True})):
            q = rng.standard_normal((batch, heads, queries, size))
            k, v = rng.standard_normal((2, batch, kv_heads, keys, size))
            yield Case(name, (q, k, v), options, differentiable=queries < 30)
        for name, (batch, heads, kv_heads, queries, keys, size), options in (
                ("tensor_cores_wide", (1, 2, 1, 70, 133, 64), {"causal": True, "offset": 40}),
                ("tensor_cores_tall", (1, 1, 1, 150, 20, 32), {"causal": True, "scale": -0.4}),
                ("tensor_cores_few", (2, 2, 1, 3, 140, 128), {"causal": True, "offset": 137}),
                ("tensor_cores_unseen", (1, 1, 1, 5, 200, 64), {"causal": True, "scale": 0.0}),
                ("tensor_cores_none", (1, 2, 1, 3, 0, 64), {})):
            q = rng.standard_normal((batch, heads, queries, size))
            k, v = rng.standard_normal((2, batch, kv_heads, keys, size))
            yield Case(name, (q, k, v), options, HALVES, differentiable=False)

    @classmethod
    def bad_cases(cls) -> Iterator[BadCase]:
        q, k = np.zeros((2, 4, 3, 8)), np.zeros((2, 2, 5, 8))
        yield BadCase("rank", (q[0], k, k), r"\[attention\] q and k must be \[B,heads,T,D\]")
        yield BadCase("values", (q, k, k[:, :, 1:]), r"\[attention\] k and v must have one shape")
        yield BadCase("batch", (q, k[1:], k[1:]), "with q's batch and head size")
        yield BadCase("heads", (q[:, 1:], k, k), "multiple of the number of key heads, got 3 and 2")
        yield BadCase("size", (q[..., 1:], k[..., 1:], k[..., 1:]), "the head size must be a multiple of 4 .* got 7")
        yield BadCase("offset", (q, k, k), "offset must be 0 or more, got -1", {"causal": True, "offset": -1})


def attend_cached(qkv: Array, layer: tuple[Array, ...], length: int, heads: int, kv_heads: int) -> Array:
    """Causal self-attention of new tokens to those before them and to themselves. Without a gradient.

    Args:
        qkv: packed projections of the new tokens [B,T,(H+2*KVH)*D].
        layer: keys and values of a cache, [B,S,KVH*D], which theirs are in already. Not read where length is 0.
        length: how many tokens every sequence had before.
    Returns:
        [B,T,H*D].
    """
    (batch, tokens, width), room = qkv.shape, layer[0].shape[1]
    all_heads = heads + 2 * kv_heads
    size = width // all_heads
    scalars: dict[str, Any] = {
        "B": batch, "H": heads, "KVH": kv_heads, "TQ": tokens, "TK": length + tokens, "offset": length,
        "scale": size ** -0.5, "q_b": tokens * all_heads, "q_t": all_heads, "q_h": 1, "k_at": 0, "v_at": 0,
        "k_b": room * kv_heads, "k_t": kv_heads, "k_h": 1, "o_b": tokens * heads, "o_t": heads, "o_h": 1}
    keys, values = (qkv, qkv) if length == 0 else layer[:2]
    if length == 0:
        scalars |= {"k_at": heads, "v_at": heads + kv_heads, "k_b": tokens * all_heads, "k_t": all_heads}
    out, _ = run(attention_forward, _rows(qkv, size), _rows(keys, size), _rows(values, size), **scalars)
    found: Array = out.reshape(batch, tokens, heads * size)
    return found
