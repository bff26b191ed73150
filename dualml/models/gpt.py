"""GPT-2: a decoder-only transformer with learned positions, pre-norm blocks and a head tied to the token table.

Source: Radford et al. 2019, "Language Models are Unsupervised Multitask Learners", section 2.3.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from .. import creation, nn
from ..errors import ShapeError
from ..nn import KVCache, functional as F, init
from ..tensor import Tensor
from ..tensor_methods import required
from .generation import TextModel


@dataclass(frozen=True)
class GPTConfig:
    """Sizes of a GPT.

    Args:
        vocab_size: V, tokens the model knows.
        context: T, tokens it sees at once.
        width: C, a multiple of heads.
        dropout: probability after the embedding and at the end of each branch; 0 for short runs.
        head_bias: whether the tied head has a bias of V.
    """

    vocab_size: int
    context: int = 64
    layers: int = 4
    heads: int = 4
    width: int = 128
    dropout: float = 0.0
    head_bias: bool = False

    def __post_init__(self) -> None:
        for name in ("vocab_size", "context", "layers", "heads", "width"):
            if getattr(self, name) < 1:
                raise ShapeError(f"[gpt] {name} must be at least 1, got {getattr(self, name)}.")

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


PRESETS: dict[str, dict[str, Any]] = {
    "gpt-nano": dict(context=64, layers=4, heads=4, width=128),  # nanoGPT's recipe for CPUs
    "gpt-shakespeare": dict(context=256, layers=6, heads=6, width=384, dropout=0.2),  # and for one GPU
    "gpt-12m": dict(context=256, layers=6, heads=6, width=384, dropout=0.1, head_bias=True),  # 12,322,816 at V=4,096
    "gpt2": dict(context=1024, layers=12, heads=12, width=768, dropout=0.1),  # 124M at V=50,257
}


class GPT(TextModel):
    """Tokens int32 [B,T] to logits [B,T,V], and with targets the mean cross entropy as well."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.config = config
        self.wte = nn.Embedding(config.vocab_size, config.width)
        self.wpe = nn.Embedding(config.context, config.width)
        self.drop = nn.Dropout(config.dropout)
        self.h = nn.ModuleList(nn.TransformerBlock(config.width, config.heads, config.dropout, approximate="tanh")
                               for _ in range(config.layers))
        self.ln_f = nn.LayerNorm(config.width)
        self.head_bias = nn.Parameter(creation.zeros(config.vocab_size)) if config.head_bias else None
        self._initialise()

    @classmethod
    def from_preset(cls, name: str, vocab_size: int, **changes: Any) -> GPT:
        """The model of a preset, for a vocabulary, with some sizes changed."""
        return cls(GPTConfig(**{**PRESETS[name], "vocab_size": vocab_size, **changes}))

    def _initialise(self) -> None:
        """GPT-2's: normal with 0.02, and less at the end of each branch so that the sum over layers does not grow."""
        branch_end = 0.02 / math.sqrt(2 * self.config.layers)
        for name, parameter in self.named_parameters():
            if parameter.ndim > 1:
                init.normal_(parameter, 0.0, branch_end if name.endswith("proj.weight") else 0.02)
            elif name.endswith("bias"):
                init.zeros_(parameter)

    def hidden(self, tokens: Tensor, cache: KVCache | None = None) -> Tensor:
        """What the head reads: int32 [B,T] -> [B,T,C]. With a cache, tokens go on from those that it holds."""
        seen = cache.length if cache is not None else 0
        steps = required("gpt", tokens, "tokens").shape[-1]
        if tokens.ndim != 2 or seen + steps > self.config.context:
            raise ShapeError(f"[gpt] tokens must be [B,T] with T at most {self.config.context} (the context)"
                             f"{f' less the {seen} in the cache' if seen else ''}, got shape {tokens.shape}.")
        if cache is not None:
            cache.reserve(steps)
        x = self.drop(self.wte(tokens) + self._positions(steps, cache))  # [B,T,C]
        for layer, block in enumerate(self.h):
            x = block(x, cache, layer)  # [B,T,C]
        if cache is not None:
            cache.advance(steps)
        return self.ln_f(x)  # type: ignore[no-any-return]

    def _positions(self, steps: int, cache: KVCache | None) -> Tensor:
        """Rows of the table of positions: [T,C], or [B,T,C] after what is in a cache."""
        if cache is not None:
            return self.wpe(cache.positions(steps))  # type: ignore[no-any-return]
        table = self.wpe.weight
        return table if steps == self.config.context else table[:steps]

    def make_cache(self, batch: int = 1, dtype: str | None = None) -> KVCache:
        """An empty cache, which grows up to the context."""
        config, table = self.config, self.wte.weight
        return KVCache(config.layers, batch, min(config.context, 256), config.width, table._array.backend,
                       dtype or table.dtype, config.heads)

    def head(self, x: Tensor) -> Tensor:
        """Logits of hidden states, by the transposed token table: [...,C] -> [...,V]."""
        return F.linear(x, self.wte.weight, self.head_bias)

    def forward(self, tokens: Tensor, targets: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        logits = self.head(self.hidden(tokens))  # [B,T,V]
        return logits, None if targets is None else F.cross_entropy(logits, targets)
