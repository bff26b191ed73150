"""Self-attention and the transformer block."""

from __future__ import annotations

from .. import functional as F
from ..dims import check_sizes
from ..errors import ShapeError
from ..tensor import Tensor
from .cache import KVCache
from .layers import Dropout, LayerNorm, Linear
from .module import Module


class MultiheadAttention(Module):
    """Self-attention [B, T, C] -> [B, T, C] with one projection for queries, keys and values (Vaswani et al. 2017).

    Args:
        embed_dim: C, a multiple of num_heads.
        num_heads: query heads.
        num_kv_heads: key and value heads, a divisor of num_heads (grouped-query attention); num_heads by default.
        dropout: probability on the output. Attention weights are never in memory, so there is none on them.
        causal: a position sees only itself and what is before it.
    """

    def __init__(self, embed_dim: int, num_heads: int, bias: bool = True, dropout: float = 0.0, causal: bool = False,
                 num_kv_heads: int | None = None) -> None:
        super().__init__()
        check_sizes("multihead_attention", embed_dim=embed_dim, num_heads=num_heads,
                    num_kv_heads=num_heads if num_kv_heads is None else num_kv_heads)
        if embed_dim % num_heads:
            raise ShapeError(f"[multihead_attention] embed_dim must be a multiple of num_heads={num_heads}, "
                             f"got {embed_dim}.")
        self.num_heads, self.num_kv_heads, self.causal = num_heads, num_kv_heads or num_heads, causal
        head = embed_dim // num_heads
        self.qkv = Linear(embed_dim, (num_heads + 2 * self.num_kv_heads) * head, bias)
        self.proj = Linear(embed_dim, embed_dim, bias)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor, cache: KVCache | None = None, layer: int = 0,
                cu_seqlens: Tensor | None = None) -> Tensor:
        """With a cache, x are new tokens, which see those in the cache's `layer` and join them. With cu_seqlens, x are
        sequences one after another [T, C] (see functional.varlen_attn)."""
        qkv = self.qkv(x)
        if cache is None:
            mixed = F.attention_qkv(qkv, self.num_heads, self.num_kv_heads, self.causal, cu_seqlens=cu_seqlens)
        else:
            mixed = cache.attend(layer, qkv, self.num_heads, self.num_kv_heads)
        out: Tensor = self.dropout(self.proj(mixed))
        return out


def feed_forward(x: Tensor, fc: Module, proj: Module, approximate: str = "none") -> Tensor:
    """proj(gelu(fc(x))): with plain Linear layers and biases by fused ops, else by calls of the layers."""
    if type(fc) is not Linear or fc.bias is None:
        made: Tensor = proj(F.gelu(fc(x), approximate))
    elif type(proj) is not Linear or proj.bias is None:
        made = proj(F.bias_gelu(F.linear(x, fc.weight), fc.bias, approximate))
    else:
        made = F.linear_gelu_linear(x, fc.weight, fc.bias, proj.weight, proj.bias, approximate)
    return made


class MLP(Module):
    """Two linear layers with a fused bias and GELU between them."""

    def __init__(self, width: int, hidden: int, bias: bool = True, dropout: float = 0.0,
                 approximate: str = "none") -> None:
        super().__init__()
        self.fc = Linear(width, hidden, bias)
        self.proj = Linear(hidden, width, bias)
        self.dropout = Dropout(dropout)
        self.approximate = approximate

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.dropout(feed_forward(x, self.fc, self.proj, self.approximate))
        return out


class TransformerBlock(Module):
    """Pre-norm block: x + attention(norm(x)), then x + mlp(norm(x)) (GPT-2)."""

    def __init__(self, width: int, heads: int, dropout: float = 0.0, bias: bool = True, causal: bool = True,
                 approximate: str = "none", kv_heads: int | None = None) -> None:
        super().__init__()
        self.ln_1 = LayerNorm(width, bias=bias)
        self.attn = MultiheadAttention(width, heads, bias, dropout, causal, kv_heads)
        self.ln_2 = LayerNorm(width, bias=bias)
        self.mlp = MLP(width, 4 * width, bias, dropout, approximate)

    def forward(self, x: Tensor, cache: KVCache | None = None, layer: int = 0) -> Tensor:
        ln = self.ln_2
        x, normed = F.add_layer_norm(self.attn(self.ln_1(x), cache, layer), x, ln.weight, ln.bias, ln.eps)
        out: Tensor = x + self.mlp(normed)
        return out
