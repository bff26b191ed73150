"""The basic layers, each a few lines over a function of nn.functional."""

from __future__ import annotations

import math
from collections.abc import Sequence

from .. import creation, functional as F
from ..dims import check_number, check_sizes
from ..tensor import Tensor
from ..tensor_methods import required
from . import init
from .module import Module, Parameter


class Linear(Module):
    """x weight^T + bias: [..., in_features] -> [..., out_features]. PyTorch's initial values."""

    def __init__(self, in_features: int, out_features: int, bias: bool = True) -> None:
        super().__init__()
        check_sizes("linear", in_features=in_features, out_features=out_features)
        self.in_features, self.out_features = in_features, out_features
        self.weight = Parameter(creation.empty(out_features, in_features))
        init.kaiming_uniform_(self.weight, a=math.sqrt(5.0))
        self.bias: Parameter | None = None
        if bias:
            bound = 1.0 / math.sqrt(in_features)
            self.bias = Parameter(creation.empty(out_features))
            init.uniform_(self.bias, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}, bias={self.bias is not None}"


class Embedding(Module):
    """Rows of a table: int32 [...] -> [..., embedding_dim]. Standard normal initial values."""

    def __init__(self, num_embeddings: int, embedding_dim: int) -> None:
        super().__init__()
        check_sizes("embedding", num_embeddings=num_embeddings, embedding_dim=embedding_dim)
        self.num_embeddings, self.embedding_dim = num_embeddings, embedding_dim
        make = creation.empty if init.skipping() else creation.randn
        self.weight = Parameter(make(num_embeddings, embedding_dim))

    def forward(self, indices: Tensor) -> Tensor:
        return F.embedding(indices, self.weight)

    def extra_repr(self) -> str:
        return f"{self.num_embeddings}, {self.embedding_dim}"


class LayerNorm(Module):
    """Layer normalisation over the last dimensions (Ba et al. 2016, arXiv 1607.06450)."""

    def __init__(self, normalized_shape: int | Sequence[int], eps: float = 1e-5, bias: bool = True) -> None:
        super().__init__()
        self.normalized_shape = (normalized_shape,) if isinstance(normalized_shape, int) else tuple(normalized_shape)
        for size in self.normalized_shape:
            check_sizes("layer_norm", normalized_shape=size)
        check_number("layer_norm", "eps", eps)
        self.eps = eps
        self.weight = Parameter(creation.ones(*self.normalized_shape))
        self.bias: Parameter | None = Parameter(creation.zeros(*self.normalized_shape)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        return f"{self.normalized_shape}, eps={self.eps}"


class RMSNorm(Module):
    """Root mean square normalisation over the last dimension (Zhang and Sennrich 2019, arXiv 1910.07467)."""

    def __init__(self, dim: int, eps: float = 1e-5) -> None:
        super().__init__()
        check_sizes("rms_norm", dim=dim)
        check_number("rms_norm", "eps", eps)
        self.dim, self.eps = dim, eps
        self.weight = Parameter(creation.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, (self.dim,), self.weight, self.eps)

    def extra_repr(self) -> str:
        return f"{self.dim}, eps={self.eps}"


class Dropout(Module):
    """Zeroes elements with probability p in training; nothing in eval."""

    def __init__(self, p: float = 0.5) -> None:
        super().__init__()
        check_number("dropout", "p", p, 0.0, 1.0)
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.p, self.training)

    def extra_repr(self) -> str:
        return f"p={self.p}"


class Identity(Module):
    """Its input, unchanged; any arguments are accepted, so that it can stand for any other layer."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        return x


class Flatten(Module):
    """Dimensions start_dim to end_dim as one; by default all but the first."""

    def __init__(self, start_dim: int = 1, end_dim: int = -1) -> None:
        super().__init__()
        self.start_dim, self.end_dim = start_dim, end_dim

    def forward(self, x: Tensor) -> Tensor:
        return required("flatten", x).flatten(self.start_dim, self.end_dim)

    def extra_repr(self) -> str:
        return f"start_dim={self.start_dim}, end_dim={self.end_dim}"


class GELU(Module):
    """x times the normal distribution function at x."""

    def __init__(self, approximate: str = "none") -> None:
        super().__init__()
        self.approximate = approximate

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(x, self.approximate)

    def extra_repr(self) -> str:
        return f"approximate={self.approximate!r}"


class ReLU(Module):
    """max(x, 0)."""

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x)


class SiLU(Module):
    """x sigmoid(x)."""

    def forward(self, x: Tensor) -> Tensor:
        return F.silu(x)


class Sigmoid(Module):
    """1 / (1 + exp(-x))."""

    def forward(self, x: Tensor) -> Tensor:
        return F.sigmoid(x)


class Tanh(Module):
    """The hyperbolic tangent."""

    def forward(self, x: Tensor) -> Tensor:
        return F.tanh(x)


class Softmax(Module):
    """Softmax along dim, the last by default."""

    def __init__(self, dim: int = -1) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, x: Tensor) -> Tensor:
        return F.softmax(x, self.dim)

    def extra_repr(self) -> str:
        return f"dim={self.dim}"
