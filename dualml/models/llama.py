"""The Llama family: a decoder with RMSNorm, rotary positions, gated MLPs and grouped-query attention.

Sources: Touvron et al. 2023 (arXiv 2302.13971); Qwen2 (arXiv 2407.10671) adds biases to queries, keys and values, Qwen3
(arXiv 2505.09388) a norm of each query and key head. One definition has them all, and SmolLM and TinyLlama.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from .. import nn
from ..errors import ShapeError
from ..nn import functional as F, init
from ..tensor import Tensor
from ..tensor_methods import required
from .generation import TextModel
from .rotary import Rotary


@dataclass(frozen=True)
class LlamaConfig:
    """Sizes of a model of the Llama family.

    Args:
        context: T, positions it was made for.
        kv_heads: key and value heads, a divisor of heads.
        hidden: width of the gated MLP.
        head_size: D; width / heads by default.
        rope_scaling: how positions beyond the first context are reached, with the names of config.json.
        tied: whether the head is the token table.
        qkv_bias, out_bias, mlp_bias: which linear layers have biases.
        qk_norm: whether each query and key head is normed.
    """

    vocab_size: int
    context: int = 2048
    layers: int = 4
    heads: int = 4
    kv_heads: int = 4
    width: int = 128
    hidden: int = 352
    head_size: int = 0
    eps: float = 1e-6
    rope_theta: float = 10_000.0
    rope_scaling: Mapping[str, Any] | None = None
    tied: bool = False
    qkv_bias: bool = False
    out_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "head_size", self.head_size or self.width // max(1, self.heads))
        for name in ("vocab_size", "context", "layers", "heads", "kv_heads", "width", "hidden", "head_size"):
            if getattr(self, name) < 1:
                raise ShapeError(f"[llama] {name} must be at least 1, got {getattr(self, name)}.")
        if self.heads % self.kv_heads:
            raise ShapeError(f"[llama] heads must be a multiple of kv_heads={self.kv_heads}, got {self.heads}.")

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


class LlamaAttention(nn.Module):
    """Causal attention [B,T,C] -> [B,T,C] of turned queries and keys."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.size = config.heads, config.kv_heads, config.head_size
        self.qkv = nn.Linear(config.width, (config.heads + 2 * config.kv_heads) * config.head_size, config.qkv_bias)
        self.proj = nn.Linear(config.heads * config.head_size, config.width, config.out_bias)
        self.q_norm = nn.RMSNorm(config.head_size, config.eps) if config.qk_norm else None
        self.k_norm = nn.RMSNorm(config.head_size, config.eps) if config.qk_norm else None

    def forward(self, x: Tensor, table: Tensor, cache: nn.KVCache | None = None, layer: int = 0) -> Tensor:
        starts = None if cache is None else cache.starts()
        qkv = self._normed(self.qkv(x))
        qkv = F.rope(qkv, table, self.heads + 2 * self.kv_heads, turned=self.heads + self.kv_heads, starts=starts)
        mixed = F.attention_qkv(qkv, self.heads, self.kv_heads) if cache is None else cache.attend(
            layer, qkv, self.heads, self.kv_heads)
        out: Tensor = self.proj(mixed)
        return out

    def _normed(self, qkv: Tensor) -> Tensor:
        """qkv with each head of queries and keys normed, where the model does so."""
        if self.q_norm is None or self.k_norm is None:
            return qkv
        batch, steps, _ = qkv.shape
        first, second = self.heads * self.size, (self.heads + self.kv_heads) * self.size
        q = self.q_norm(qkv[:, :, :first].reshape(batch, steps, self.heads, self.size))
        k = self.k_norm(qkv[:, :, first:second].reshape(batch, steps, self.kv_heads, self.size))
        return F.cat([q.reshape(batch, steps, -1), k.reshape(batch, steps, -1), qkv[:, :, second:]], -1)


class LlamaBlock(nn.Module):
    """x + attention(norm(x)), then x + down(silu(gate) * up) of its norm."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.norm_1 = nn.RMSNorm(config.width, config.eps)
        self.attn = LlamaAttention(config)
        self.norm_2 = nn.RMSNorm(config.width, config.eps)
        self.gate_up = nn.Linear(config.width, 2 * config.hidden, config.mlp_bias)
        self.down = nn.Linear(config.hidden, config.width, config.mlp_bias)

    def forward(self, x: Tensor, table: Tensor, cache: nn.KVCache | None = None, layer: int = 0) -> Tensor:
        norm = self.norm_2
        x, normed = F.add_rms_norm(self.attn(self.norm_1(x), table, cache, layer), x, norm.weight, norm.eps)
        out: Tensor = x + self.down(F.swiglu(self.gate_up(normed)))
        return out


class Llama(TextModel):
    """Tokens int32 [B,T] to logits [B,T,V], and with targets the mean cross entropy as well."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.config = config
        self.rotary = Rotary(config.head_size, config.context, config.rope_theta, config.rope_scaling)
        self.wte = nn.Embedding(config.vocab_size, config.width)
        self.h = nn.ModuleList(LlamaBlock(config) for _ in range(config.layers))
        self.norm = nn.RMSNorm(config.width, config.eps)
        self.lm_head = None if config.tied else nn.Linear(config.width, config.vocab_size, bias=False)
        branch_end = 0.02 / math.sqrt(2 * config.layers)
        for name, parameter in self.named_parameters():
            if parameter.ndim > 1:
                init.normal_(parameter, 0.0, branch_end if name.endswith(("proj.weight", "down.weight")) else 0.02)
            elif name.endswith("bias"):
                init.zeros_(parameter)

    def hidden(self, tokens: Tensor, cache: nn.KVCache | None = None) -> Tensor:
        """What the head reads: int32 [B,T] -> [B,T,C]. With a cache, tokens go on from those that it holds. They may
        exceed the context; how well that works is the rope scaling's matter."""
        if required("llama", tokens, "tokens").ndim != 2:
            raise ShapeError(f"[llama] tokens must be [B,T], got shape {tokens.shape}.")
        steps = tokens.shape[1]
        if cache is not None:
            cache.reserve(steps)
        table = self.rotary.table(steps if cache is None else cache.capacity, self.wte.weight.backend)
        x = self.wte(tokens)  # [B,T,C]
        for layer, block in enumerate(self.h):
            x = block(x, table, cache, layer)  # [B,T,C]
        if cache is not None:
            cache.advance(steps)
        return self.norm(x)  # type: ignore[no-any-return]

    def make_cache(self, batch: int = 1, dtype: str | None = None) -> nn.KVCache:
        """An empty cache, which grows."""
        config, table = self.config, self.wte.weight
        return nn.KVCache(config.layers, batch, min(config.context, 256), config.kv_heads * config.head_size,
                          table._array.backend, dtype or table.dtype, config.kv_heads)

    def head(self, x: Tensor) -> Tensor:
        """Logits of hidden states: [...,C] -> [...,V]."""
        return F.linear(x, self.wte.weight if self.lm_head is None else self.lm_head.weight)

    def forward(self, tokens: Tensor, targets: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        logits = self.head(self.hidden(tokens))  # [B,T,V]
        return logits, None if targets is None else F.cross_entropy(logits, targets)
