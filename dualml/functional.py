"""Typed functions on tensors, also reachable as dualml.nn.functional. Names and meanings follow PyTorch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from . import dtypes
from .dims import normal_dim
from .errors import DTypeError, ShapeError
from .ops import attention, cross_entropy as ce, dropout as drop, embedding as emb, layout, linear as layers, norm
from .ops.attention_varlen import AttentionVarlen, AttentionVarlenQkv
from .ops.bias_gelu import BiasGelu
from .ops.gated_unit import GatedUnit
from .ops.rope import Rope
from .random import default_generator
from .tape import apply, input_policy
from .tensor import Number, Tensor, elementwise
from .tensor_methods import required

# ---- elementwise and layout -------------------------------------------------------------------------------------


def where(condition: Tensor, a: Tensor | Number, b: Tensor | Number) -> Tensor:
    """a where condition is true, else b; all three broadcast."""
    required("where", condition, "condition")
    if isinstance(a, Tensor):
        return a.where(condition, b)
    if isinstance(b, Tensor):
        return b.where(~condition.bool(), a)
    from .creation import full
    kind = dtypes.promote(*[dtypes.bool_ if isinstance(v, (bool, np.bool_)) else dtypes.float32
                            if isinstance(v, (float, np.floating)) else dtypes.int32 for v in (a, b)])
    return elementwise("where", condition.bool(), full((), a, kind, condition.backend), b)


def maximum(a: Tensor, b: Tensor | Number) -> Tensor:
    """The larger of both at each place; they broadcast. NaN stays, equals share the gradient evenly."""
    return required("maximum", a, "a").maximum(b)


def minimum(a: Tensor, b: Tensor | Number) -> Tensor:
    """The smaller of both at each place; they broadcast. NaN stays, equals share the gradient evenly."""
    return required("minimum", a, "a").minimum(b)


def relu(x: Tensor) -> Tensor:
    """max(x, 0)."""
    return required("relu", x).relu()


def silu(x: Tensor) -> Tensor:
    """x sigmoid(x)."""
    return required("silu", x).silu()


def softplus(x: Tensor) -> Tensor:
    """log(1 + exp(x)), stable for any x."""
    return required("softplus", x).softplus()


def sigmoid(x: Tensor) -> Tensor:
    """1 / (1 + exp(-x))."""
    return required("sigmoid", x).sigmoid()


def tanh(x: Tensor) -> Tensor:
    """The hyperbolic tangent."""
    return required("tanh", x).tanh()


def _check_approximate(op: str, approximate: str) -> None:
    if approximate not in ("none", "tanh"):
        raise ShapeError(f"[{op}] approximate must be 'none' or 'tanh', got {approximate!r}.")


def gelu(x: Tensor, approximate: str = "none") -> Tensor:
    """x times the normal distribution function at x: exact, or its tanh approximation."""
    _check_approximate("gelu", approximate)
    return elementwise("gelu_tanh" if approximate == "tanh" else "gelu", required("gelu", x))


def softmax(x: Tensor, dim: int = -1) -> Tensor:
    """exp(x) / sum(exp(x)) along dim, without overflow."""
    return required("softmax", x).softmax(dim)


def log_softmax(x: Tensor, dim: int = -1) -> Tensor:
    """The logarithm of softmax along dim, stable where softmax would be 0."""
    return required("log_softmax", x).log_softmax(dim)


def cat(tensors: Sequence[Tensor], dim: int = 0) -> Tensor:
    """The tensors one after another along dim; all other sizes must agree."""
    if not tensors:
        raise ShapeError("[cat] expected at least one tensor, got none.")
    dtype = dtypes.promote(*[required("cat", t, "every input").dtype for t in tensors])
    result: Tensor = apply(layout.Cat, *[t.to(dtype) for t in tensors], dim=normal_dim("cat", dim, tensors[0].ndim))
    return result


def stack(tensors: Sequence[Tensor], dim: int = 0) -> Tensor:
    """The tensors along a new dimension dim; all shapes must agree."""
    if not tensors:
        raise ShapeError("[stack] expected at least one tensor, got none.")
    if any(required("stack", t, "every input").shape != tensors[0].shape for t in tensors):
        raise ShapeError(f"[stack] all shapes must be equal, got {[t.shape for t in tensors]}.")
    place = normal_dim("stack", dim, tensors[0].ndim + 1)
    return cat([t.unsqueeze(place) for t in tensors], place)


# ---- layers -------------------------------------------------------------------------------------------------------


def _require_floating(op: str, x: Tensor) -> None:
    if not required(op, x).dtype.is_floating_point:
        raise DTypeError(f"[{op}] x must be floating, got {x.dtype.name}. Cast it with .float(); tokens go through "
                         "nn.Embedding first.")


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x weight^T + bias. x [..., K], weight [N, K], bias [N] -> [..., N]."""
    _require_floating("linear", x)
    result: Tensor = apply(layers.Linear, x, weight, bias)
    return result


def bias_gelu(x: Tensor, bias: Tensor, approximate: str = "none") -> Tensor:
    """gelu(x + bias) in one kernel, and one backward kernel. x [..., C], bias [C]."""
    _check_approximate("bias_gelu", approximate)
    result: Tensor = apply(BiasGelu, x, bias, approximate=approximate)
    return result


def linear_gelu_linear(x: Tensor, weight: Tensor, bias: Tensor, weight2: Tensor, bias2: Tensor,
                       approximate: str = "none") -> Tensor:
    """linear(gelu(linear(x, weight, bias)), weight2, bias2), a transformer's MLP, in as few kernels as there are: GELU
    with its bias is one, or part of the products where the backend's can do that. x [..., K], weight [H,K], bias [H],
    weight2 [N,H], bias2 [N] -> [..., N]."""
    _check_approximate("linear_gelu_linear", approximate)
    _require_floating("linear_gelu_linear", x)
    way, policy = "gelu_tanh" if approximate == "tanh" else "gelu", input_policy()
    if policy is not None:  # products will be made in this dtype
        (x,) = policy(layers.LinearGeluLinear, (x,))
    # rows of what GELU is taken of must begin at multiples of 16 bytes
    if x._array.backend.joins(way, x.dtype) and weight.ndim == 2 and weight.shape[0] % 8 == 0:
        result: Tensor = apply(layers.LinearGeluLinear, x, weight, bias, weight2, bias2, approximate=approximate)
        return result
    return linear(bias_gelu(linear(x, weight), bias, approximate), weight2, bias2)


def swiglu(x: Tensor) -> Tensor:
    """silu(gate) * value of packed x = [gate, value]: [..., 2C] -> [..., C] (Shazeer 2020, arXiv 2002.05202)."""
    result: Tensor = apply(GatedUnit, x, activation="silu")
    return result


def geglu(x: Tensor, approximate: str = "none") -> Tensor:
    """gelu(gate) * value of packed x = [gate, value]: [..., 2C] -> [..., C] (Shazeer 2020, arXiv 2002.05202)."""
    _check_approximate("geglu", approximate)
    result: Tensor = apply(GatedUnit, x, activation="gelu_tanh" if approximate == "tanh" else "gelu")
    return result


def embedding(indices: Tensor, weight: Tensor) -> Tensor:
    """Rows of weight [V, C] by int32 indices [...] -> [..., C]. An index outside [0, V) gives a row of NaN."""
    result: Tensor = apply(emb.Embedding, weight, indices)
    return result


def one_hot(indices: Tensor, num_classes: int = -1) -> Tensor:
    """1 at each index and 0 elsewhere, int32: [...] -> [..., num_classes]. An index outside gives zeros.

    Args:
        indices: int32.
        num_classes: -1 is one more than the largest index, for which the host waits for the device.
    """
    if required("one_hot", indices, "indices").dtype.kind != "i":
        raise DTypeError(f"[one_hot] indices must be int32, got {indices.dtype.name}. Cast them with .int().")
    if num_classes == -1 and indices.numel():
        num_classes = int(indices.amax().item()) + 1
    if num_classes < 1:
        raise ShapeError(f"[one_hot] num_classes must be at least 1, got {num_classes}.")
    from .creation import arange
    return (indices.unsqueeze(-1) == arange(num_classes, backend=indices.backend)).int()


def _check_normalized(op: str, x: Tensor, normalized_shape: Sequence[int]) -> None:
    required(op, x)
    if tuple(normalized_shape) != x.shape[x.ndim - len(normalized_shape):] or not normalized_shape:
        raise ShapeError(f"[{op}] normalized_shape must be the last dimensions of {x.shape}, got "
                         f"{tuple(normalized_shape)}.")


def layer_norm(x: Tensor, normalized_shape: Sequence[int], weight: Tensor | None = None, bias: Tensor | None = None,
               eps: float = 1e-5) -> Tensor:
    """(x - mean) / sqrt(var + eps) * weight + bias over the last dimensions (Ba et al. 2016, arXiv 1607.06450)."""
    _check_normalized("layer_norm", x, normalized_shape)
    if len(normalized_shape) == 1:
        result: Tensor = apply(norm.LayerNorm, x, weight, bias, eps=eps)
        return result
    lead = x.shape[:x.ndim - len(normalized_shape)]
    flat = [None if p is None else p.reshape(-1) for p in (weight, bias)]
    folded: Tensor = apply(norm.LayerNorm, x.reshape(*lead, -1), *flat, eps=eps)
    return folded.reshape(*x.shape)


def rms_norm(x: Tensor, normalized_shape: Sequence[int], weight: Tensor | None = None, eps: float = 1e-5) -> Tensor:
    """x / sqrt(mean(x^2) + eps) * weight over the last dimension (Zhang and Sennrich 2019, arXiv 1910.07467)."""
    _check_normalized("rms_norm", x, normalized_shape)
    if len(normalized_shape) != 1:
        raise ShapeError(f"[rms_norm] normalized_shape must be one dimension, got {tuple(normalized_shape)}.")
    result: Tensor = apply(norm.RMSNorm, x, weight, eps=eps)
    return result


def add_layer_norm(x: Tensor, residual: Tensor, weight: Tensor | None = None, bias: Tensor | None = None,
                   eps: float = 1e-5) -> tuple[Tensor, Tensor]:
    """(h, layer_norm(h)) with h = x + residual, in one kernel."""
    result: tuple[Tensor, Tensor] = apply(norm.AddLayerNorm, x, residual, weight, bias, eps=eps)
    return result


def add_rms_norm(x: Tensor, residual: Tensor, weight: Tensor | None = None,
                 eps: float = 1e-5) -> tuple[Tensor, Tensor]:
    """(h, rms_norm(h)) with h = x + residual, in one kernel."""
    result: tuple[Tensor, Tensor] = apply(norm.AddRMSNorm, x, residual, weight, eps=eps)
    return result


def dropout(x: Tensor, p: float = 0.5, training: bool = True) -> Tensor:
    """Zeroes elements with probability p and scales the rest by 1/(1-p). The mask is a function of the seed alone, so
    it is the same on every backend (Philox 4x32-10)."""
    if not 0.0 <= p <= 1.0:
        raise ShapeError(f"[dropout] p must be in [0, 1], got {p}.")
    if not training or p == 0.0:
        return required("dropout", x)
    state, offset = default_generator().reserve(required("dropout", x).numel(), x._array.backend)
    result: Tensor = apply(drop.Dropout, x, Tensor(state), rate=p, offset=offset)
    return result


# ---- attention ----------------------------------------------------------------------------------------------------


def rope(x: Tensor, table: Tensor, heads: int, *, turned: int | None = None, starts: Tensor | None = None,
         offset: int = 0) -> Tensor:
    """Rotary position embedding, half-split as in Llama (Su et al. 2021, arXiv 2104.09864).

    Args:
        x: [..., T, heads*D].
        table: [S, 2, D/2], cosines and sines of every position. No gradient flows to it.
        turned: how many heads are turned, from the first; the rest are copied. All by default.
        starts: int32 position of the first token: one number, or one for each sequence; 0 by default.
        offset: is added to all positions. Where the table does not reach, the result is NaN.
    """
    result: Tensor = apply(Rope, x, table, starts, heads=heads, turned=turned, offset=offset)
    return result


def scaled_dot_product_attention(query: Tensor, key: Tensor, value: Tensor, *, is_causal: bool = False,
                                 scale: float | None = None, enable_gqa: bool = False) -> Tensor:
    """softmax(query key^T scale) value without a score matrix in memory (FlashAttention-2, arXiv 2307.08691).

    Args:
        query: [B, H, T, D]; key, value: [B, H or fewer, S, D] (fewer heads need enable_gqa).
        scale: 1/sqrt(D) by default.
    """
    if key.shape[1] != query.shape[1] and not enable_gqa:
        raise ShapeError(f"[scaled_dot_product_attention] key must have {query.shape[1]} heads like query, got "
                         f"{key.shape[1]}. Pass enable_gqa=True for grouped-query attention.")
    result: Tensor = apply(attention.Attention, query, key, value, causal=is_causal, scale=scale)
    return result


def varlen_attn(query: Tensor, key: Tensor, value: Tensor, cu_seqlens: Tensor, *, is_causal: bool = False,
                scale: float | None = None, enable_gqa: bool = False) -> Tensor:
    """Self-attention within each of several sequences that lie one after another, without padding, as
    torch.nn.attention.varlen and FlashAttention's flash_attn_varlen_func do it.

    Args:
        query: [T, H, D], the tokens of all sequences; key, value: [T, H or fewer, D] (fewer heads need enable_gqa).
        cu_seqlens: int32 [sequences + 1]: 0, and where each sequence ends, in rising order. The values stay on the
            device, so that a captured step may be replayed with others. Tokens after the last end give 0 and get no
            gradient.
        scale: 1/sqrt(D) by default.
    """
    heads = query.shape[1:2]
    if key.shape[1:2] != heads and not enable_gqa:
        raise ShapeError(f"[varlen_attn] key must have as many heads as query, got shapes {key.shape} and "
                         f"{query.shape}. Pass enable_gqa=True for grouped-query attention.")
    result: Tensor = apply(AttentionVarlen, query, key, value,
                           required("varlen_attn", cu_seqlens, "cu_seqlens"), causal=is_causal, scale=scale)
    return result


def attention_qkv(qkv: Tensor, heads: int, kv_heads: int | None = None, causal: bool = True,
                  scale: float | None = None, cu_seqlens: Tensor | None = None) -> Tensor:
    """Attention read in place from packed projections: qkv [B, T, (H + 2 KV) D] -> [B, T, H D].

    Args:
        cu_seqlens: where sequences of different lengths begin and end, as in `varlen_attn`. qkv is [T, (H + 2 KV) D]
            then.
    """
    options = {"heads": heads, "kv_heads": kv_heads or heads, "causal": causal, "scale": scale}
    result: Tensor
    if cu_seqlens is None:
        result = apply(attention.AttentionQkv, qkv, **options)
    else:
        result = apply(AttentionVarlenQkv, qkv, cu_seqlens, **options)
    return result


# ---- losses -------------------------------------------------------------------------------------------------------


def _reduced(op: str, values: Tensor, reduction: str) -> Tensor:
    if reduction not in ("mean", "sum", "none"):
        raise ShapeError(f"[{op}] reduction must be mean, sum or none, got {reduction!r}.")
    return values.mean() if reduction == "mean" else values.sum() if reduction == "sum" else values


def cross_entropy(logits: Tensor, target: Tensor, ignore_index: int = -100, reduction: str = "mean",
                  label_smoothing: float = 0.0, classes: int | None = None) -> Tensor:
    """Softmax cross entropy in one fused kernel. logits [..., V], target int32 [...] (PyTorch's [N, C] layout only).

    Args:
        classes: how many of a row's logits, the first ones, stand for classes; the others, which pad a vocabulary to a
            length that products are faster with, count for nothing and get no gradient. By default all V.
    """
    if reduction not in ("mean", "sum", "none"):
        raise ShapeError(f"[cross_entropy] reduction must be mean, sum or none, got {reduction!r}.")
    required("cross_entropy", logits, "logits")
    if required("cross_entropy", target, "target").dtype.kind != "i":
        raise DTypeError(f"[cross_entropy] target must be int32 class indices, got {target.dtype.name}.")
    if logits.shape[:-1] != target.shape:
        raise ShapeError(f"[cross_entropy] target must have logits' shape without its last dimension, "
                         f"{logits.shape[:-1]}, got {target.shape}.")
    rows: Tensor = apply(ce.CrossEntropy, logits.reshape(-1, logits.shape[-1]), target.reshape(-1),
                         ignore_index=ignore_index, label_smoothing=label_smoothing, reduction=reduction,
                         classes=classes)
    return rows.reshape(*target.shape) if reduction == "none" else rows


def mse_loss(x: Tensor, target: Tensor, reduction: str = "mean") -> Tensor:
    """(x - target)^2, reduced."""
    return _reduced("mse_loss", (x - target).square(), reduction)


def l1_loss(x: Tensor, target: Tensor, reduction: str = "mean") -> Tensor:
    """|x - target|, reduced."""
    return _reduced("l1_loss", (x - target).abs(), reduction)


def nll_loss(log_probabilities: Tensor, target: Tensor, reduction: str = "mean", ignore_index: int = -100) -> Tensor:
    """-log p[target], reduced; targets equal to ignore_index count for nothing. log_probabilities [N, C], target int32
    [N]."""
    classes = log_probabilities.shape[-1]
    from .creation import arange
    kept = target != ignore_index
    chosen = (target.unsqueeze(-1) == arange(classes, backend=target.backend)) & kept.unsqueeze(-1)
    losses = -log_probabilities.where(chosen, 0.0).sum(-1)
    if reduction == "mean":
        return losses.sum() / kept.sum()
    return _reduced("nll_loss", losses, reduction)


def binary_cross_entropy_with_logits(x: Tensor, target: Tensor, reduction: str = "mean") -> Tensor:
    """-log of the probability sigmoid(x) gives to target in [0, 1], stable for any x."""
    return _reduced("binary_cross_entropy_with_logits", x.softplus() - x * target, reduction)
