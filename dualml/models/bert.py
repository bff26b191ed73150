"""BERT: an encoder whose every position sees all others (Devlin et al. 2019, arXiv 1810.04805), and sentence embeddings
by pooling what it gives (Reimers and Gurevych 2019, arXiv 1908.10084), as in MiniLM (arXiv 2002.10957).

Texts of different lengths go through together, one after another in one row of tokens: none is padded, so that there is
no work for padding and no mask to get wrong.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from .. import creation, nn
from ..errors import DataError, ShapeError
from ..nn import functional as F, init
from ..nn.attention import feed_forward
from ..tape import no_grad
from ..tensor import Tensor
from ..tensor_methods import required

POOLINGS = ("mean", "cls")
_MOST_TOKENS = 8192  # at once in `encode`: their MLP, 4096 wide in BERT-large, is then 128 MiB, WebGPU's limit


@dataclass(frozen=True)
class BertConfig:
    """Sizes of a BERT.

    Args:
        context: T, positions it knows.
        hidden: width of the MLP.
        types: kinds of segments; all of a text is of the first kind unless said otherwise.
        pooler: whether there is a dense layer over the first position. Embeddings do not use it.
        pooling: what `encode` makes of a text's positions: their mean, or the first (cls).
        longest: tokens of a text that `encode` reads, at most the context.
    """

    vocab_size: int
    context: int = 512
    layers: int = 6
    heads: int = 12
    width: int = 384
    hidden: int = 1536
    types: int = 2
    eps: float = 1e-12
    pooler: bool = True
    pooling: str = "mean"
    longest: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "longest", min(self.longest or self.context, self.context))
        for name in ("vocab_size", "context", "layers", "heads", "width", "hidden", "types", "longest"):
            if getattr(self, name) < 1:
                raise ShapeError(f"[bert] {name} must be at least 1, got {getattr(self, name)}.")
        if self.pooling not in POOLINGS:
            raise ShapeError(f"[bert] pooling must be one of {', '.join(POOLINGS)}, got {self.pooling!r}.")

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


class BertBlock(nn.Module):
    """norm(x + attention(x)), then the same of an MLP with GELU."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(config.width, config.heads)
        self.norm_1 = nn.LayerNorm(config.width, config.eps)
        self.fc = nn.Linear(config.width, config.hidden)
        self.proj = nn.Linear(config.hidden, config.width)
        self.norm_2 = nn.LayerNorm(config.width, config.eps)

    def forward(self, x: Tensor, cu_seqlens: Tensor | None = None) -> Tensor:
        one, two = self.norm_1, self.norm_2
        _, x = F.add_layer_norm(self.attn(x, cu_seqlens=cu_seqlens), x, one.weight, one.bias, one.eps)
        return F.add_layer_norm(feed_forward(x, self.fc, self.proj), x, two.weight, two.bias, two.eps)[1]


class Bert(nn.Module):
    """Tokens int32 [B,T] to hidden states [B,T,C]; `encode` makes one vector of a text."""

    def __init__(self, config: BertConfig, tokenizer: Any = None) -> None:
        super().__init__()
        self.config, self.tokenizer = config, tokenizer
        self.wte = nn.Embedding(config.vocab_size, config.width)
        self.wpe = nn.Embedding(config.context, config.width)
        self.types = nn.Embedding(config.types, config.width)
        self.norm = nn.LayerNorm(config.width, config.eps)
        self.h = nn.ModuleList(BertBlock(config) for _ in range(config.layers))
        self.pooler = nn.Linear(config.width, config.width) if config.pooler else None
        for name, parameter in self.named_parameters():
            if parameter.ndim > 1:
                init.normal_(parameter, 0.0, 0.02)
            elif name.endswith("bias"):
                init.zeros_(parameter)

    def hidden(self, tokens: Tensor, types: Tensor | None = None) -> Tensor:
        """int32 [B,T] -> [B,T,C]. All positions count: texts of one length, without padding."""
        steps = required("bert", tokens, "tokens").shape[-1]
        if tokens.ndim != 2 or steps > self.config.context:
            raise ShapeError(f"[bert] tokens must be [B,T] with T at most {self.config.context} (the context), got "
                             f"shape {tokens.shape}.")
        kinds = self.types.weight[:1] if types is None else self.types(types)  # [1,C] or [B,T,C]
        x = self.norm(self.wte(tokens) + self.wpe.weight[:steps] + kinds)  # [B,T,C]
        for block in self.h:
            x = block(x)  # [B,T,C]
        return x  # type: ignore[no-any-return]

    def forward(self, tokens: Tensor, types: Tensor | None = None) -> Tensor:
        return self.hidden(tokens, types)

    def embed(self, tokens: Tensor, normalize: bool = True) -> Tensor:
        """One vector per row of tokens: int32 [B,T] -> [B,C]. Gradients flow."""
        x = self.hidden(tokens)
        return _vectors(x.mean(1) if self.config.pooling == "mean" else x[:, 0], normalize)  # [B,C]

    def embed_packed(self, rows: Sequence[np.ndarray], normalize: bool = True) -> Tensor:
        """One vector for each of several texts of any lengths, tokens int32, without padding: [texts,C]."""
        backend, lengths = self.wte.weight.backend, np.array([len(row) for row in rows], np.int64)
        ends, text = lengths.cumsum(), np.repeat(np.arange(len(rows)), lengths)  # [T]
        place = np.arange(len(text)) - (ends - lengths)[text]
        if not rows or not lengths.all() or lengths.max(initial=0) > self.config.context:
            raise ShapeError(f"[bert] texts must have 1 to {self.config.context} tokens, got {lengths.tolist()}.")
        tokens, places, starts = (creation.tensor(x.astype(np.int32), backend=backend)
                                  for x in (np.concatenate(rows), place, np.append(0, ends)))
        x = self.norm(self.wte(tokens) + self.wpe(places) + self.types.weight[:1])  # [T,C]
        for block in self.h:
            x = block(x, starts)  # [T,C]
        counts = text == np.arange(len(rows))[:, None]  # [texts,T], which tokens a vector is made of
        if self.config.pooling == "cls":
            counts &= place == 0
        summed = creation.tensor(counts.astype(np.float32), backend=backend).to(x.dtype) @ x
        return _vectors(summed / creation.tensor(counts.sum(1, keepdims=True, dtype=np.float32), backend=backend),
                        normalize)

    def encode(self, texts: Sequence[str | Sequence[int]], batch: int = 32, normalize: bool = True) -> np.ndarray:
        """Embeddings of texts [N,C] in float32, of length 1 unless `normalize` is False.

        Args:
            texts: strings, or token ids with the special tokens around them. Long ones are cut to config.longest.
            batch: texts at once, fewer where they are long.
        """
        rows = [self._tokens(text) for text in texts]
        found = np.empty((len(rows), self.config.width), np.float32)
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
        was_training = self.training
        self.eval()
        try:
            with no_grad():
                for group in _groups([len(rows[i]) for i in order], batch):
                    places = order[group]
                    found[places] = self.embed_packed([rows[i] for i in places], normalize).numpy()
        finally:
            self.train(was_training)
        return found

    def _tokens(self, text: str | Sequence[int]) -> np.ndarray:
        if isinstance(text, str):
            if self.tokenizer is None:
                raise DataError("[encode] this model has no tokenizer. Load it with from_pretrained from a folder with "
                                "tokenizer.json, or pass token ids.")
            text = self.tokenizer.encode(text)
        row, longest = np.asarray(text, np.int32).reshape(-1), self.config.longest
        if not row.size or row.min() < 0 or row.max() >= self.config.vocab_size:
            raise DataError(f"[encode] a text must be of tokens from 0 to {self.config.vocab_size - 1}, at least one, "
                            f"got {row[:8].tolist()}.")
        return row if len(row) <= longest else np.append(row[:longest - 1], row[-1])  # the end mark stays


def _groups(lengths: Sequence[int], most: int) -> Iterator[slice]:
    """Slices of at most so many neighbours, and of no more tokens than memory and a device's bindings have room for."""
    start = tokens = 0
    for i, length in enumerate(lengths):
        if i - start == most or (i > start and tokens + length > _MOST_TOKENS):
            yield slice(start, i)
            start, tokens = i, 0
        tokens += length
    if lengths:
        yield slice(start, len(lengths))


def _vectors(pooled: Tensor, normalize: bool) -> Tensor:
    return pooled / pooled.square().sum(-1, keepdim=True).sqrt().maximum(1e-12) if normalize else pooled
