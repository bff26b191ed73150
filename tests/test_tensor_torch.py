"""Every public function on tensors against PyTorch in float64: values and gradients.

A row is a name, an expression that both libraries understand, and the shapes of its inputs; `there` is PyTorch's
expression where it is another. The parity suite compares backends with our NumPy references; this says that the
references are right.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pytest

import dualml as dm
from tests.parity.modes import REQUIRED

if "torch" in REQUIRED:
    import torch
else:
    torch = pytest.importorskip("torch", reason="PyTorch, which these tests compare with, is not installed")

F, TF = dm.nn.functional, torch.nn.functional
Function = Callable[..., Any]


@dataclass(frozen=True)
class Row:
    name: str
    here: Function
    shapes: tuple[Any, ...]  # arrays stand for themselves
    there: Function | None = None
    domain: Callable[[np.ndarray], np.ndarray] = np.asarray


def _positive(x: np.ndarray) -> np.ndarray:
    return np.abs(x) + 0.5


def _unit(x: np.ndarray) -> np.ndarray:
    return np.tanh(x) * 0.9


def method(name: str, *args: Any, **options: Any) -> Function:
    """x.name(...), in either library."""
    return lambda x: getattr(x, name)(*args, **options)


def loss(library: Any, name: str, **options: Any) -> Function:
    """A loss of values and classes; PyTorch's are int64."""
    def apply(target: Any, x: Any) -> Any:
        return getattr(library, name)(x, target if library is F else target.long(), **options)
    return apply


INDEX = np.array([3, 0, 3, 1], np.int32)
WORDS = np.array([[3, 0, 3], [1, 5, 2]], np.int32)
CLASSES = np.array([2, 0, -100, 4, 1], np.int32)
MASK = np.array([[True, False, True], [False, True, True]])
A, B = (3, 4), (4,)
WHOLE = np.array([[-7, 7, -8, 8], [2**31 - 1, -2**31, -2**31, 0], [6, -6, 5, -5]], np.int32)
PARTS = np.array([[3, -3, 4, -4], [-1, 7, 2**31 - 1, 5], [-3, -3, 8, 8]], np.int32)

UNARY = [Row(name, method(name), ((3, 7),)) for name in (
    "abs", "sign", "exp", "expm1", "square", "sin", "cos", "tanh", "sigmoid", "relu", "erf", "floor", "ceil", "isnan",
    "isinf", "isfinite", "sum", "mean", "prod", "argmax", "argmin", "var", "std", "flatten", "clone", "detach",
    "squeeze", "tril", "triu", "contiguous")]
UNARY += [Row(name, method(name), ((3, 7),), domain=_positive) for name in ("log", "sqrt", "rsqrt", "reciprocal")]
UNARY += [Row(f"F.{name}", getattr(F, name), ((3, 7),), getattr(TF, name)) for name in (
    "relu", "silu", "softplus", "sigmoid", "tanh", "gelu")]

ARITHMETIC = [
    Row("log1p", lambda x: x.log1p(), (A,), domain=_unit),
    Row("add", lambda a, b: a + b, (A, B)),
    Row("add number", lambda a: 2 + a + 1.5, (A,)),
    Row("sub", lambda a, b: a - b, ((2, 1, 3), (4, 1))),
    Row("rsub", lambda a: 1.0 - a, (A,)),
    Row("mul", lambda a, b: a * b, (A, ())),
    Row("div", lambda a, b: a / b, (A, B), domain=_positive),
    Row("rdiv", lambda a: 2 / a, (A,), domain=_positive),
    Row("pow", lambda a, b: a ** b, (A, B), domain=_positive),
    Row("square by pow", lambda a: a ** 2, (A,)),
    Row("cube", lambda a: a ** 3, (A,), domain=_positive),
    Row("rpow", lambda a: 2.0 ** a, (A,)),
    Row("neg", lambda a: -a, (A,)),
    Row("remainder", lambda a, b: a % b, (A, (3, 1))),
    Row("remainder by numbers", lambda a: a % 0.3 + a % -0.3 + 2.0 % a, ((9, 9),),
        lambda a: a % 0.3 + a % -0.3 + torch.full_like(a, 2.0) % a),
    Row("remainder of integers", lambda i, j: i % j, (WHOLE, PARTS)),
    Row("remainder of integers by numbers", lambda i: i % 5 + i % -5 + i % 2.5, (WHOLE[:1],)),
    Row("floor_divide", lambda a, b: a // b, ((9, 9), (9, 1)),
        lambda a, b: torch.div(a, b, rounding_mode="floor")),
    Row("floor_divide by numbers", lambda a: a // 0.3 - 5 // a, ((9, 9),), lambda a: torch.div(
        a, 0.3, rounding_mode="floor") - torch.div(torch.full_like(a, 5.0), a, rounding_mode="floor")),
    Row("floor_divide of integers", lambda i, j: i // j, (WHOLE, PARTS)),
    Row("floor_divide of integers by numbers", lambda i: i // 5 + i // -5 + i // 2.5, (WHOLE[:1],)),
    Row("maximum", lambda a, b: a.maximum(b), (A, B)),
    Row("minimum", lambda a, b: a.minimum(b), (A, B)),
    Row("dm.maximum", lambda a, b: dm.maximum(a, b), (A, B), lambda a, b: torch.maximum(a, b)),
    Row("dm.minimum", lambda a, b: dm.minimum(a, b), (A, B), lambda a, b: torch.minimum(a, b)),
    Row("maximum of equals", lambda a: a.maximum(a * 1.0), (A,)),
    Row("clamp", lambda a: a.clamp(-0.5, 0.5), ((9, 9),)),
    Row("clamp min", lambda a: a.clamp(min=-0.5), ((9, 9),)),
    Row("clamp max", lambda a: a.clamp(max=0.5), ((9, 9),)),
    Row("where", lambda m, a, b: dm.where(m, a, b), (MASK, (2, 3), (3,)), lambda m, a, b: torch.where(m, a, b)),
    Row("where numbers", lambda m, a: dm.where(m, a, 7.0), (MASK, (2, 3)), lambda m, a: torch.where(m, a, 7.0)),
    Row("where number first", lambda m, a: dm.where(m, 0.0, a), (MASK, (2, 3)), lambda m, a: torch.where(m, 0.0, a)),
    Row("method where", lambda m, a, b: a.where(m, b), (MASK, (2, 3), (2, 3))),
    Row("compare", lambda a, b: (a < b) & (a <= b) | (a > b) ^ (a >= b), (A, B)),
    Row("equal", lambda a: (a == a) & ~(a != a), (A,)),
    Row("compare with a number", lambda a: a > 0, (A,)),
    Row("gelu tanh", lambda a: F.gelu(a, approximate="tanh"), ((3, 7),), lambda a: TF.gelu(a, approximate="tanh")),
]
REDUCTIONS = [
    *[Row(f"{name} dim", method(name, dim=(0, 2), keepdim=True), ((3, 4, 5),))
      for name in ("sum", "mean", "var", "std")],
    *[Row(f"{name} last", method(name, -1), ((3, 70),)) for name in ("sum", "mean", "prod")],
    Row("max of two", lambda a, b: a.max(b) - a.min(b), (A, B)),
    Row("max", lambda x: x.max(), (A,)),
    Row("min", lambda x: x.min(), (A,)),
    Row("max dim", lambda x: x.amax(dim=1), (A,), lambda x: x.amax(1)),
    Row("min dims", lambda x: x.amin(dim=(0, 1), keepdim=True), (A,), lambda x: x.amin((0, 1), keepdim=True)),
    Row("argmax dim", lambda x: x.argmax(dim=0), (A,)),
    Row("argmin keepdim", lambda x: x.argmin(dim=-1, keepdim=True), (A,)),
    Row("any", lambda m: m.any(dim=1), (MASK,)),
    Row("all", lambda m: m.all(dim=0, keepdim=True), (MASK,)),
    Row("var correction", lambda x: x.var(dim=1, correction=0), (A,)),
    Row("logsumexp", lambda x: x.logsumexp(dim=1), (A,)),
    Row("norm", lambda x: x.norm(), (A,)),
    Row("softmax", lambda x: x.softmax(-1), ((3, 33),)),
    Row("softmax of dim 0", lambda x: F.softmax(x, dim=0), ((3, 5),), lambda x: TF.softmax(x, dim=0)),
    Row("log_softmax", lambda x: F.log_softmax(x, dim=1), ((3, 5, 2),), lambda x: TF.log_softmax(x, dim=1)),
]
PRODUCTS = [
    Row("matmul", lambda a, b: a @ b, ((5, 7), (7, 6))),
    Row("matmul batched", lambda a, b: a @ b, ((2, 3, 5, 4), (3, 4, 6))),
    Row("matmul broadcast", lambda a, b: a.matmul(b), ((2, 1, 5, 4), (3, 4, 6))),
    Row("matmul vector", lambda a, b: a @ b, ((5, 4), (4,))),
    Row("vector matmul", lambda a, b: a @ b, ((4,), (4, 5))),
    Row("dot", lambda a, b: a @ b, ((6,), (6,))),
    Row("matmul transposed", lambda a, b: a.mT @ b.T, ((7, 5), (6, 7))),
    Row("linear", lambda x, w, b: F.linear(x, w, b), ((2, 3, 8), (5, 8), (5,)), lambda x, w, b: TF.linear(x, w, b)),
    Row("linear without bias", lambda x, w: F.linear(x, w), ((3, 7), (5, 7)), lambda x, w: TF.linear(x, w)),
]
LAYOUT = [
    Row("reshape", lambda x: x.reshape(2, -1), ((3, 4),)),
    Row("view", lambda x: x.view((4, 3)), ((3, 4),)),
    Row("flatten dims", lambda x: x.flatten(1, 2), ((2, 3, 4, 5),)),
    Row("squeeze", lambda x: x.squeeze(1), ((2, 1, 4),)),
    Row("squeeze nothing", lambda x: x.squeeze(0), ((2, 1, 4),)),
    Row("unsqueeze", lambda x: x.unsqueeze(-1), ((2, 4),)),
    Row("permute", lambda x: x.permute(2, 0, 1), ((2, 3, 4),)),
    Row("transpose", lambda x: x.transpose(0, -1), ((2, 3, 4),)),
    Row("T", lambda x: x.T, ((2, 3),)),
    Row("expand", lambda x: x.expand(3, -1, 4), ((2, 1),)),
    Row("broadcast_to", lambda x: x.broadcast_to((3, 2, 4)), ((2, 1),)),
    Row("repeat", lambda x: x.repeat(2, 1, 3), ((2, 3),)),
    Row("flip", lambda x: x.flip(0, 2), ((2, 3, 4),)),
    Row("tril", lambda x: x.tril(-1), ((4, 5),)),
    Row("triu", lambda x: x.triu(1), ((2, 4, 5),)),
    Row("narrow", lambda x: x.narrow(1, 1, 2), ((2, 4),)),
    Row("split", lambda x: sum(p.sum() * i for i, p in enumerate(x.split(2, dim=1))), ((3, 5),)),
    Row("split sizes", lambda x: x.split([1, 4], dim=1)[1], ((3, 5),)),
    Row("chunk", lambda x: x.chunk(2, dim=0)[1], ((5, 3),)),
    Row("cat", lambda a, b: dm.cat([a, b, a], dim=1), ((2, 3), (2, 4)), lambda a, b: torch.cat([a, b, a], dim=1)),
    Row("stack", lambda a, b: dm.stack([a, b], dim=-1), ((2, 3), (2, 3)), lambda a, b: torch.stack([a, b], dim=-1)),
    Row("index", lambda x: x[1], ((3, 4),)),
    Row("negative index", lambda x: x[-1, ..., -2], ((3, 4, 5),)),
    Row("slices", lambda x: x[1:, None, ::2], ((3, 5),)),
    Row("one beside a step", lambda x: x[2, 1:4:2], ((3, 5),)),
    Row("empty slice", lambda x: x[2:1].sum(0), ((3, 4),)),
    Row("index tensor", lambda i, x: x[i], (INDEX, (4, 3)), lambda i, x: x[i.long()]),
    Row("index tensor behind", lambda i, x: x[:, i], (WORDS, (2, 6)), lambda i, x: x[:, i.long()]),
    Row("index_select", lambda i, x: x.index_select(1, i), (INDEX, (3, 4)), lambda i, x: x.index_select(1, i.long())),
    Row("gather", lambda i, x: x.gather(1, i.long()), (WORDS, (2, 6))),
    Row("gather of a part", lambda i, x: dm.gather(x, 0, i), (WORDS % 3, (3, 5)),
        lambda i, x: torch.gather(x, 0, i.long())),
    Row("masked_fill", lambda m, x: x.masked_fill(m, -1.5), (MASK, (2, 3))),
    Row("masked_fill of rows", lambda m, x: x.masked_fill(m, 2.0), (MASK, (4, 2, 3))),
    Row("t", lambda x: x.t() @ x, ((3, 4),)),
    Row("t of a vector", lambda x: x.t(), ((4,),)),
    Row("iteration", lambda x: sum((row * i for i, row in enumerate(x)), x[0]), ((3, 4),)),
    Row("casts", lambda x: x.int().float() + x.bool().float() + x.half().float() * 0 + x.long().float(), ((3, 4),)),
]
TIES = np.array([[2, 1, 2, 1, 2], [0, 3, 0, 3, 1]], np.int32)
SORTED = [
    *[Row(f"cumsum {dim}", method("cumsum", dim), ((3, 4, 5),)) for dim in (0, 1, -1)],
    Row("cumsum of bools", lambda m: m.cumsum(1), (MASK,)),
    Row("cumsum of integers", lambda i: i.cumsum(0), (WORDS,)),
    *[Row(f"topk {dim} {largest}", lambda x, d=dim, g=largest: x.topk(3, dim=d, largest=g).values, ((3, 40, 5),))
      for dim in (0, 1, -1) for largest in (True, False)],
    Row("topk of a long row", lambda x: x.topk(256).values, ((2, 4999),)),
    Row("topk indices", lambda x: x.topk(7, 0).indices, ((300, 4),)),
    Row("topk of nothing", lambda x: x.topk(0).values, ((3, 4),)),
    *[Row(f"sort {dim} {down}", lambda x, d=dim, g=down: x.sort(dim=d, descending=g).values, ((3, 70, 5),))
      for dim in (0, 1, -1) for down in (True, False)],
    *[Row(f"sort of ties {down}", lambda i, g=down: i.sort(descending=g).indices, (TIES,),
          lambda i, g=down: i.sort(stable=True, descending=g).indices) for down in (True, False)],
    Row("argsort", lambda x: x.argsort(0), ((5, 6),)),
    Row("sort of a number", lambda x: x.sort().values, ((),)),
]
EINSUMS = [Row(f"einsum {equation}", lambda *x, e=equation: dm.einsum(e, *x), shapes,
               lambda *x, e=equation: torch.einsum(e, *x)) for equation, *shapes in (
    ("ij,jk->ik", (3, 4), (4, 5)), ("ij,jk", (3, 4), (4, 5)), ("bij,bjk->bik", (2, 3, 4), (2, 4, 5)),
    ("bhtd,bhsd->bhts", (2, 3, 4, 5), (2, 3, 6, 5)), ("i,j->ij", (3,), (4,)), ("i,i->", (5,), (5,)),
    ("ij->ji", (3, 4)), ("ijk->j", (2, 3, 4)), ("ij->", (2, 3)), ("ba", (2, 3)), ("ijk,k->ji", (2, 3, 4), (4,)),
    ("abc,dbe->ce", (2, 3, 4), (5, 3, 6)), ("b i j, b j -> b i", (2, 3, 4), (2, 4)), ("ij,ij->ij", (3, 4), (3, 4)),
    (",ij->ij", (), (3, 4)))]
LAYERS = [
    Row("embedding", lambda i, w: F.embedding(i, w), (WORDS, (6, 5)), lambda i, w: TF.embedding(i.long(), w)),
    Row("layer_norm", lambda x, w, b: F.layer_norm(x, (8,), w, b), ((2, 3, 8), (8,), (8,)),
        lambda x, w, b: TF.layer_norm(x, (8,), w, b)),
    Row("layer_norm plain", lambda x: F.layer_norm(x, (7,), eps=1e-3), ((5, 7),),
        lambda x: TF.layer_norm(x, (7,), eps=1e-3)),
    Row("layer_norm of two dims", lambda x, w: F.layer_norm(x, (3, 4), w), ((2, 3, 4), (3, 4)),
        lambda x, w: TF.layer_norm(x, (3, 4), w)),
    Row("rms_norm", lambda x, w: F.rms_norm(x, (8,), w, 1e-5), ((2, 3, 8), (8,)),
        lambda x, w: TF.rms_norm(x, (8,), w, 1e-5)),
    Row("add_layer_norm", lambda x, r, w: F.add_layer_norm(x, r, w)[1], ((3, 8), (3, 8), (8,)),
        lambda x, r, w: TF.layer_norm(x + r, (8,), w)),
    Row("add_rms_norm", lambda x, r, w: sum(F.add_rms_norm(x, r, w)), ((3, 8), (3, 8), (8,)),
        lambda x, r, w: x + r + TF.rms_norm(x + r, (8,), w, 1e-5)),
    Row("bias_gelu", lambda x, b: F.bias_gelu(x, b), ((3, 8), (8,)), lambda x, b: TF.gelu(x + b)),
    Row("attention", lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True), ((2, 3, 5, 8),) * 3,
        lambda q, k, v: TF.scaled_dot_product_attention(q, k, v, is_causal=True)),
    Row("cross attention", lambda q, k, v: F.scaled_dot_product_attention(q, k, v, scale=0.3),
        ((2, 3, 5, 8), (2, 3, 7, 8), (2, 3, 7, 8)),
        lambda q, k, v: TF.scaled_dot_product_attention(q, k, v, scale=0.3)),
    Row("grouped-query attention", lambda q, k, v: F.scaled_dot_product_attention(q, k, v, enable_gqa=True),
        ((2, 4, 5, 8), (2, 2, 5, 8), (2, 2, 5, 8)),
        lambda q, k, v: TF.scaled_dot_product_attention(q, k, v, enable_gqa=True)),
    *[Row(f"cross_entropy {kind} {smoothing}", loss(F, "cross_entropy", reduction=kind, label_smoothing=smoothing),
          (CLASSES, (5, 6)), loss(TF, "cross_entropy", reduction=kind, label_smoothing=smoothing))
      for kind in ("mean", "sum", "none") for smoothing in (0.0, 0.1)],
    *[Row(f"cross_entropy of a padded vocabulary {kind} {smoothing}",
          loss(F, "cross_entropy", reduction=kind, label_smoothing=smoothing, classes=6), (CLASSES, (5, 8)),
          lambda target, x, kind=kind, smoothing=smoothing: TF.cross_entropy(
              x[:, :6], target.long(), reduction=kind, label_smoothing=smoothing))
      for kind in ("mean", "none") for smoothing in (0.0, 0.1)],
    *[Row(f"{name} {kind}", partial(getattr(F, name), reduction=kind), ((3, 4), (3, 4)),
          partial(getattr(TF, name), reduction=kind))
      for name in ("mse_loss", "l1_loss") for kind in ("mean", "sum", "none")],
    Row("one_hot", lambda i: F.one_hot(i, 6), (WORDS,), lambda i: TF.one_hot(i.long(), 6)),
    Row("one_hot of as many as needed", lambda i: F.one_hot(i), (WORDS,), lambda i: TF.one_hot(i.long())),
    Row("nll_loss", lambda t, x: F.nll_loss(x.log_softmax(-1), t), (CLASSES[:2], (2, 6)),
        lambda t, x: TF.nll_loss(x.log_softmax(-1), t.long())),
    Row("binary_cross_entropy_with_logits", lambda x, y: F.binary_cross_entropy_with_logits(x, y), ((3, 4), (3, 4)),
        lambda x, y: TF.binary_cross_entropy_with_logits(x, y)),
]
ROWS = UNARY + ARITHMETIC + REDUCTIONS + PRODUCTS + LAYOUT + SORTED + EINSUMS + LAYERS


def close(here: np.ndarray, there: np.ndarray, what: str, tolerance: float = 1e-5) -> None:
    assert here.shape == there.shape, f"{what} has shape {here.shape}, PyTorch {there.shape}"
    if there.dtype.kind in "iub":
        np.testing.assert_array_equal(here, there, what)
    else:
        np.testing.assert_allclose(here, there, tolerance, tolerance * max(1.0, np.abs(there).max(initial=0)),
                                   err_msg=what)


@pytest.mark.parametrize("row", ROWS, ids=lambda r: r.name)
def test_against_pytorch(row: Row, fast_backend: str) -> None:
    rng = np.random.default_rng(len(row.name))
    host = [s if isinstance(s, np.ndarray) else np.float32(row.domain(rng.standard_normal(s))) for s in row.shapes]
    ours = [dm.tensor(x, requires_grad=x.dtype.kind == "f") for x in map(np.asarray, host)]
    theirs = [torch.tensor(x.astype(np.float64) if x.dtype.kind == "f" else x, requires_grad=x.dtype.kind == "f")
              for x in map(np.asarray, host)]
    here, there = row.here(*ours), (row.there or row.here)(*theirs)
    close(here.detach().numpy(), there.detach().numpy(), row.name)
    assert here.requires_grad == there.requires_grad, f"{row.name} requires_grad"
    if not there.requires_grad:
        return
    seed = rng.standard_normal(there.shape)
    here.backward(dm.tensor(np.float32(seed)))
    there.backward(torch.tensor(np.float32(seed).astype(np.float64)))
    for place, (x, y) in enumerate(zip(ours, theirs, strict=True)):
        assert (x.grad is None) == (y.grad is None), f"{row.name}: gradient {place}"
        if x.grad is not None:
            close(x.grad.numpy(), y.grad.numpy(), f"{row.name}: gradient {place}", 2e-5)


# ---- creation -----------------------------------------------------------------------------------------------------

CREATION = {
    "tensor": (lambda m: m.tensor([[1.0, 2.0], [3.0, 4.0]]), 0),
    "tensor of integers": (lambda m: m.tensor([1, -2, 3]), 0),
    "tensor of bools": (lambda m: m.tensor([True, False]), 0),
    "zeros": (lambda m: m.zeros(2, 3), 0),
    "ones": (lambda m: m.ones((2, 3)), 0),
    "full": (lambda m: m.full((2, 2), 1.5), 0),
    "arange": (lambda m: m.arange(5), 0),
    "arange of floats": (lambda m: m.arange(1.0, 3.0, 0.3), 1e-6),
    "arange down": (lambda m: m.arange(5, -4, -3), 0),
    "linspace": (lambda m: m.linspace(-1.0, 2.0, 7), 1e-6),
    "eye": (lambda m: m.eye(3, 4), 0),
    "zeros_like": (lambda m: m.zeros_like(m.ones(2, 3)), 0),
    "ones_like": (lambda m: m.ones_like(m.arange(4)), 0),
    "full_like": (lambda m: m.full_like(m.zeros(3), 2.5), 0),
}


@pytest.mark.parametrize("name", CREATION)
def test_creation(name: str, fast_backend: str) -> None:
    make, tolerance = CREATION[name]
    here, there = make(dm), make(torch)
    np.testing.assert_allclose(here.numpy(), there.numpy(), tolerance, tolerance)
    assert here.dtype.name == {"int64": "int32"}.get(n := str(there.dtype).removeprefix("torch."), n)
    assert here.shape == tuple(there.shape)


def test_promotion() -> None:
    """The dtype two operands meet in, as in PyTorch, with int32 in the place of int64."""
    names = ("bool", "int32", "float16", "bfloat16", "float32", "float64")
    for a in names:
        for b in names:
            here = (dm.ones(2, dtype=a, backend="cpu") * dm.ones(2, dtype=b, backend="cpu")).dtype.name
            there = (torch.ones(2, dtype=getattr(torch, a)) * torch.ones(2, dtype=getattr(torch, b))).dtype
            assert f"torch.{here}" == str(there), (a, b)
        for number in (True, 2, 2.5):
            here = (dm.ones(2, dtype=a, backend="cpu") * number).dtype.name
            there = str((torch.ones(2, dtype=getattr(torch, a)) * number).dtype).replace("int64", "int32")
            assert f"torch.{here}" == there, (a, number)


FUNCTIONS: dict[str, tuple[Any, ...]] = {  # and their arguments behind a positive [3, 4] tensor
    "sum": (1,), "mean": (0,), "prod": (1,), "amax": (1,), "amin": (1,), "argmax": (1,), "argmin": (0,), "var": (1,),
    "std": (1,), "norm": (), "logsumexp": (1,), "softmax": (1,), "log_softmax": (0,), "pow": (2.0,), "clamp": (0.6, 1),
    "cumsum": (1,), "argsort": (1,), "reshape": ((4, 3),), "flatten": (), "squeeze": (), "unsqueeze": (1,),
    "permute": ((1, 0),), "transpose": (0, 1), "flip": ((0,),), "tril": (), "triu": (1,), "broadcast_to": ((2, 3, 4),),
    "numel": (), "clone": (), "max": (), "min": (), "floor_divide": (0.3,), "remainder": (0.3,),
    **dict.fromkeys(("abs", "sign", "exp", "log", "log1p", "expm1", "sqrt", "rsqrt", "reciprocal", "square", "sin",
                     "cos", "tanh", "sigmoid", "relu", "erf", "floor", "ceil", "isnan", "isinf", "isfinite"), ())}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_of_the_package(name: str, cpu: None) -> None:
    """dm.exp(x) is torch.exp(x), and says so where x is no tensor."""
    x, args = np.float32(_positive(np.random.default_rng(3).standard_normal((3, 4)))), FUNCTIONS[name]
    here, there = getattr(dm, name)(dm.tensor(x), *args), getattr(torch, name)(torch.tensor(x), *args)
    close(here.numpy(), there.numpy(), name) if isinstance(here, dm.Tensor) else np.testing.assert_equal(here, there)
    with pytest.raises(dm.errors.DTypeError, match=rf"\[{name}\] x must be a Tensor, got numpy.ndarray. Make one with"):
        getattr(dm, name)(x, *args)


def test_allclose(backend: str) -> None:
    """In every corner as PyTorch's, whose infinities and NaN have rules of their own."""
    values = [1.0, 1.0 + 1e-6, 1.1, float("inf"), -float("inf"), float("nan"), 0.0]
    for a in values:
        for b in values:
            for equal_nan in (False, True):
                there = torch.allclose(torch.tensor([a]), torch.tensor([b]), equal_nan=equal_nan)
                assert dm.allclose(dm.tensor([a]), dm.tensor([b]), equal_nan=equal_nan) == there, (a, b)
    for a, b in ((1, 2), (True, False), ([[1.0, 2.0]], [1.0, 2.3])):
        assert dm.allclose(dm.tensor(a), dm.tensor(a))
        assert not dm.allclose(dm.tensor(a), dm.tensor(b), rtol=0.1)
