"""The kernels that gpu_kernels.py times: ours on one side, PyTorch's way to the same result on the other.

A case tells the fewest bytes that must move (each input read once, each output written once) and the operations of its
products. Its functions make one set of buffers and return the work over it; what is timed takes several sets in turn.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from ml_dtypes import finfo
from targets import ADAMW, CROSS_ENTROPY, NORM_BACKWARD, Target

from dualml.array import Array, from_numpy, run
from dualml.backends.base import Backend
from dualml.dtypes import as_dtype
from dualml.kernel import Kernel
from dualml.ops.attention import attention_backward_delta
from dualml.ops.bias_gelu import MOST_GROUPS as GELU_GROUPS, bias_gelu_backward, bias_gelu_forward
from dualml.ops.cross_entropy import cross_entropy_in_place
from dualml.ops.embedding import embedding_backward, embedding_order, embedding_segments
from dualml.ops.matmul import gemm, matmul
from dualml.ops.norm import layer_norm_backward, layer_norm_forward
from dualml.ops.optimizer import adamw
from dualml.ops.partials import GROUP_ROWS, MOST_GROUPS, groups_of, sum_partials

Work = Callable[[], Any]
STEP = {"tokens": 16384, "width": 384, "vocabulary": 4096}
LINEAR = {"qkv": (3, 1), "proj": (1, 1), "fc": (4, 1), "fc proj": (1, 4)}  # columns and inner, in widths
HALF = "bfloat16"
BYTES = {"float32": 4, "bfloat16": 2}
CHECKED = 1024  # rows of a product that are checked


class OurMaker:
    """Random Arrays. What was made once is copied on the device."""

    def __init__(self, backend: Backend) -> None:
        self.backend, self.made = backend, dict[Any, Array]()
        self.block = np.random.default_rng(0).standard_normal(1 << 20, np.float32)

    def normal(self, *shape: int, dtype: str = "float32", positive: bool = False) -> Array:
        def values() -> np.ndarray:
            block = np.abs(self.block) if positive else self.block
            return np.resize(block.astype(as_dtype(dtype).host), shape)
        return self._copied((shape, dtype, positive), values)

    def integers(self, high: int, *shape: int) -> Array:
        return self._copied((high, shape), lambda: np.random.default_rng(1).integers(0, high, shape).astype(np.int32))

    def _copied(self, key: Any, values: Callable[[], np.ndarray]) -> Array:
        if key not in self.made:
            self.made[key] = from_numpy(values(), backend=self.backend)
        return self.made[key].copy()

    def given(self, *values: float) -> Array:
        return from_numpy(np.array(values, np.float32), backend=self.backend)


class TorchMaker:
    """Random tensors."""

    def __init__(self, torch: Any, where: str) -> None:
        self.torch, self.where = torch, where

    def normal(self, *shape: int, dtype: str = "float32", positive: bool = False) -> Any:
        made = self.torch.randn(*shape, device=self.where, dtype=getattr(self.torch, dtype))
        return made.abs_() if positive else made

    def integers(self, high: int, *shape: int) -> Any:
        return self.torch.randint(0, high, shape, device=self.where)


@dataclass(frozen=True)
class Rival:
    """One of PyTorch's ways. `piece` is what torch.compile gets if `compiled`, `use(piece, *args)` what is timed."""

    name: str
    args: Callable[[TorchMaker], tuple[Any, ...]]
    piece: Callable[..., Any]
    use: Callable[..., Any] = lambda piece, *args: piece(*args)
    compiled: bool = False


@dataclass(frozen=True)
class Variation:
    """Another form of a case's first kernel: threads of a workgroup, or what its work is made with."""

    name: str
    block: int | None = None
    options: tuple[tuple[str, Any], ...] = ()
    without_vendor: bool = False


@dataclass(frozen=True)
class Case:
    name: str
    shape: str
    dtype: str
    moved: int
    kernels: tuple[Kernel, ...]
    ours: Callable[..., Work]
    rivals: tuple[Rival, ...]
    flops: int = 0
    target: Target | None = None
    variations: tuple[Variation, ...] = ()
    check: Callable[[Backend], float] | None = None  # the error of its kernel, as it is now, over what is allowed


def both(args: Callable[[TorchMaker], tuple[Any, ...]], piece: Callable[..., Any],
         use: Callable[..., Any] | None = None) -> tuple[Rival, ...]:
    use = use or (lambda piece, *args: piece(*args))
    return Rival("torch eager", args, piece, use), Rival("torch compiled", args, piece, use, True)


def blocks(*sizes: int) -> tuple[Variation, ...]:
    return tuple(Variation(f"{size} threads", size) for size in sizes)


# ---- norms ----------------------------------------------------------------------------------------------------------

def norm_backward(rows: int, width: int, dtype: str) -> Case:
    def ours(make: OurMaker, chunks: int = MOST_GROUPS) -> Work:
        dout, x, weight = make.normal(rows, width, dtype=dtype), make.normal(rows, width, dtype=dtype), \
            make.normal(1, width, dtype=dtype)
        none, groups = Array(x.buffer, (0, rows, width), x.dtype), groups_of(rows, chunks)
        _, _, mean, rstd = run(layer_norm_forward, x, none, weight, weight, types={"Y": x.dtype}, eps=1e-5)

        def work() -> Any:
            dx, partial = run(layer_norm_backward, dout, x, none, weight, mean, rstd, S=groups, P=2)
            return dx, run(sum_partials, partial, A=1, B=1, types={"F": x.dtype})
        return work

    def args(make: TorchMaker) -> tuple[Any, ...]:
        x, weight = make.normal(rows, width, dtype=dtype), make.normal(width, dtype=dtype)
        _, mean, rstd = make.torch.native_layer_norm(x, [width], weight, weight, 1e-5)
        return make.normal(rows, width, dtype=dtype), x, mean, rstd, weight

    def piece(dout: Any, x: Any, mean: Any, rstd: Any, weight: Any) -> Any:
        import torch
        return torch.ops.aten.native_layer_norm_backward(dout, x, [width], mean, rstd, weight, weight, [True] * 3)
    more = tuple(Variation(f"{n} workgroups", None, (("chunks", n),)) for n in (264, 528, 2048) if n * 4 <= rows)
    return Case("layer_norm_backward", f"{rows}x{width}", dtype, 3 * rows * width * BYTES[dtype],
                (layer_norm_backward,), ours, both(args, piece), target=NORM_BACKWARD,
                variations=blocks(32, 64, 256) + more)


def norm_forward(rows: int, width: int, dtype: str) -> Case:
    def ours(make: OurMaker) -> Work:
        x, weight = make.normal(rows, width, dtype=dtype), make.normal(1, width, dtype=dtype)
        none = Array(x.buffer, (0, rows, width), x.dtype)
        return lambda: run(layer_norm_forward, x, none, weight, weight, types={"Y": x.dtype}, eps=1e-5)

    def args(make: TorchMaker) -> tuple[Any, ...]:
        return make.normal(rows, width, dtype=dtype), make.normal(width, dtype=dtype)

    def piece(x: Any, weight: Any) -> Any:
        import torch
        return torch.native_layer_norm(x, [width], weight, weight, 1e-5)
    return Case("layer_norm_forward", f"{rows}x{width}", dtype, 2 * rows * width * BYTES[dtype],
                (layer_norm_forward,), ours, both(args, piece), variations=blocks(32, 64, 256))


# ---- loss and optimizer ---------------------------------------------------------------------------------------------

def cross_entropy(rows: int, classes: int, dtype: str, length: int = 0) -> Case:
    """PyTorch in float32 from 16-bit logits, as autocast makes it and as ours computes; ours in rows padded to
    `length` too, where PyTorch has the classes alone."""
    def ours(make: OurMaker) -> Work:
        logits, targets = make.normal(rows, length or classes, dtype=dtype), make.integers(classes, rows)
        one, scale = make.given(1), make.given(1 / rows)
        return lambda: run(cross_entropy_in_place, logits, targets, one, scale, V=classes, ignore_index=-100,
                           smoothing=0.0)

    def args(make: TorchMaker) -> tuple[Any, ...]:
        return make.normal(rows, classes, dtype=dtype).requires_grad_(), make.integers(classes, rows)

    def piece(logits: Any, targets: Any) -> Any:
        import torch
        return torch.nn.functional.cross_entropy(logits.float(), targets)

    def use(piece: Any, logits: Any, targets: Any) -> Any:
        import torch
        return torch.autograd.grad(piece(logits, targets), logits)
    return Case("cross_entropy_in_place", f"{rows}x{classes}" + f" of {length}" * (length > 0), dtype,
                2 * rows * (length or classes) * BYTES[dtype], (cross_entropy_in_place,), ours, both(args, piece, use),
                target=CROSS_ENTROPY, variations=blocks(128, 512, 1024))


def optimizer(count: int) -> Case:
    """Eager PyTorch: its fused AdamW. Compiled: the same formula over flat tensors."""
    def ours(make: OurMaker) -> Work:
        param, grad, m = (make.normal(count) for _ in range(3))
        v, scale = make.normal(count, positive=True), make.given(1)
        hyper = make.given(3e-4, 0.9, 1 - 0.9, 0.95, 1 - 0.95, 1e-8, 0.1, 1 / (1 - 0.9**9), 1 / (1 - 0.95**9))
        return lambda: run(adamw, param, grad, m, v, hyper, scale, decoupled=1)

    def fused(make: TorchMaker) -> tuple[Any, ...]:
        param = make.torch.nn.Parameter(make.normal(count))
        param.grad = make.normal(count)
        return (make.torch.optim.AdamW([param], lr=3e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True),)

    def flat(make: TorchMaker) -> tuple[Any, ...]:
        return *(make.normal(count) for _ in range(3)), make.normal(count, positive=True)

    def piece(param: Any, grad: Any, m: Any, v: Any) -> None:
        m.lerp_(grad, 1 - 0.9)
        v.mul_(0.95).addcmul_(grad, grad, value=1 - 0.95)
        param.mul_(1 - 3e-4 * 0.1)
        param.addcdiv_(m, (v / (1 - 0.95**9)).sqrt_().add_(1e-8), value=-3e-4 / (1 - 0.9**9))
    return Case("adamw", f"{count:,}", "float32", 28 * count, (adamw,), ours,
                (Rival("torch eager", fused, lambda optimizer: optimizer.step()),
                 Rival("torch compiled", flat, piece, compiled=True)), target=ADAMW, variations=blocks(128, 512, 1024))


# ---- the rest of the step -------------------------------------------------------------------------------------------

def embedding_gradient(rows: int, width: int, vocabulary: int) -> Case:
    def ours(make: OurMaker) -> Work:
        dout, indices = make.normal(rows, width), make.integers(vocabulary, rows)

        def work() -> Any:
            order, ordered = run(embedding_order, indices)
            return run(embedding_backward, dout, order, run(embedding_segments, ordered, V=vocabulary))
        return work

    def args(make: TorchMaker) -> tuple[Any, ...]:
        return make.normal(rows, width), make.integers(vocabulary, rows)

    def piece(dout: Any, indices: Any) -> Any:
        import torch
        return torch.ops.aten.embedding_dense_backward(dout, indices, vocabulary, -1, False)
    return Case("embedding_backward", f"{rows}x{width} of {vocabulary}", "float32", 4 * (rows + vocabulary) * width,
                (embedding_backward,), ours, both(args, piece), variations=blocks(64, 128, 512))


def gelu(rows: int, width: int, dtype: str) -> Iterator[Case]:
    def ours(make: OurMaker) -> Work:
        x, bias = make.normal(rows, width, dtype=dtype), make.normal(width, dtype=dtype)
        return lambda: run(bias_gelu_forward, x, bias, approximate=1)

    def args(make: TorchMaker) -> tuple[Any, ...]:
        return make.normal(rows, width, dtype=dtype), make.normal(width, dtype=dtype)

    def piece(x: Any, bias: Any) -> Any:
        import torch
        return torch.nn.functional.gelu(x + bias, approximate="tanh")

    def ours_back(make: OurMaker, groups: int = GELU_GROUPS) -> Work:
        dout, x, bias = (make.normal(*shape, dtype=dtype) for shape in ((rows, width), (rows, width), (width,)))

        def work() -> Any:
            dx, partial = run(bias_gelu_backward, dout, x, bias, S=groups_of(rows, groups), P=1, approximate=1)
            return dx, run(sum_partials, partial, A=1, B=0, types={"F": x.dtype})
        return work

    def piece_back(x: Any, bias: Any, dout: Any) -> Any:
        import torch
        dx = torch.ops.aten.gelu_backward(dout, x + bias, approximate="tanh")
        return dx, dx.sum(0)
    once = rows * width * BYTES[dtype]
    yield Case("bias_gelu_forward", f"{rows}x{width}", dtype, 2 * once, (bias_gelu_forward,), ours, both(args, piece),
               variations=blocks(128, 512))
    yield Case("bias_gelu_backward", f"{rows}x{width}", dtype, 3 * once, (bias_gelu_backward,), ours_back,
               both(lambda make: (*args(make), make.normal(rows, width, dtype=dtype)), piece_back),
               variations=(*blocks(128, 256), *(Variation(f"{n} groups of rows", None, (("groups", n),))
                                                for n in (256, 1024) if n * GROUP_ROWS <= rows)))


def attention_delta(rows: int, size: int, dtype: str) -> Case:
    def ours(make: OurMaker) -> Work:
        out, dout = (make.normal(rows, size, dtype=dtype) for _ in range(2))
        return lambda: run(attention_backward_delta, out, dout)
    return Case("attention_backward_delta", f"{rows}x{size}", dtype, rows * (2 * size * BYTES[dtype] + 4),
                (attention_backward_delta,), ours,
                both(lambda make: tuple(make.normal(rows, size, dtype=dtype) for _ in range(2)),
                     lambda out, dout: (out.float() * dout.float()).sum(-1)), variations=blocks(128, 256))


def product(label: str, way: str, tokens: int, columns: int, inner: int, dtype: str) -> Case:
    """Of a linear layer: forward with bias, the gradient of its input, that of its weight."""
    shapes = {"forward": ((tokens, inner), (columns, inner)), "dx": ((tokens, columns), (columns, inner)),
              "dweight": ((tokens, columns), (tokens, inner))}[way]

    def ours(make: OurMaker) -> Work:
        a, b = (make.normal(1, *shape, dtype=dtype) for shape in shapes)
        bias = make.normal(columns, dtype=dtype) if way == "forward" else None
        return lambda: gemm(a, b, ta=way == "dweight", tb=way == "forward", bias=bias)

    def args(make: TorchMaker) -> tuple[Any, ...]:
        each = [make.normal(*shape, dtype=dtype) for shape in shapes]
        return *each, *([make.normal(columns, dtype=dtype)] if way == "forward" else [])

    def piece(a: Any, b: Any, bias: Any = None) -> Any:
        import torch
        if way == "forward":
            return torch.nn.functional.linear(a, b, bias)
        return a.t() @ b if way == "dweight" else a @ b
    moved = (tokens * inner + columns * inner + tokens * columns) * BYTES[dtype]
    return Case(f"matmul {label} {way}", f"{tokens}x{columns}x{inner}", dtype, moved, (matmul,), ours,
                (Rival("torch eager", args, piece),), 2 * tokens * columns * inner,
                variations=(Variation("own kernel", without_vendor=True),),
                check=lambda backend: product_error(backend, shapes, dtype, way == "dweight", way == "forward"))


def product_error(backend: Backend, shapes: Sequence[tuple[int, int]], dtype: str, ta: bool, forward: bool) -> float:
    """The worst error in halves of a unit in the last place: 1 at most where sums are rounded once. Of small integers,
    whose sums are exact in float32 in any order. Of CHECKED rows from first to last, so of every tile."""
    rng, host = np.random.default_rng(0), as_dtype(dtype).host
    a, b = (rng.integers(-3, 4, (1, *shape), np.int8).astype(host) for shape in shapes)
    bias = rng.integers(-3, 4, shapes[1][0], np.int8).astype(host) if forward else None
    given = [from_numpy(x, backend=backend) for x in (a, b, bias) if x is not None]
    made = gemm(*given[:2], ta=ta, tb=forward, bias=given[2] if forward else None).numpy()[0]
    left, right = a[0].T if ta else a[0], b[0].T if forward else b[0]
    rows = np.unique(np.linspace(0, len(left) - 1, CHECKED).astype(int))
    exact = left[rows].astype(np.float64) @ right.astype(np.float64) + (0 if bias is None else bias.astype(np.float64))
    unit = float(finfo(host).eps) * 2 ** np.floor(np.log2(np.maximum(np.abs(exact), 1)))
    return float((np.abs(made[rows].astype(np.float64) - exact) / (unit / 2)).max())


def products(tokens: int, width: int, vocabulary: int) -> Iterator[Case]:
    layers = {name: (m * width, k * width) for name, (m, k) in LINEAR.items()} | {"lm_head": (vocabulary, width)}
    for dtype in (HALF, "float32"):
        for label, (columns, inner) in layers.items():
            for way in ("forward", "dx", "dweight"):
                yield product(label, way, tokens, columns, inner, dtype)


def cases(tiny: bool) -> Iterator[Case]:
    """All of them, at the step's sizes and larger ones; or very small, to try the script."""
    rows, width, vocabulary = (24, 16, 40) if tiny else tuple(STEP.values())
    yield norm_backward(rows, width, "float32")
    yield norm_backward(rows, width, HALF)
    yield norm_forward(rows, width, "float32")
    yield cross_entropy(rows, vocabulary, HALF)
    yield optimizer(1000 if tiny else 12_322_816)
    if not tiny:
        yield norm_backward(65536, 1024, "float32")
        yield norm_backward(65536, 1024, HALF)
        yield norm_forward(65536, 1024, HALF)
        yield cross_entropy(rows, 50257, HALF)
        yield cross_entropy(rows, 50257, HALF, 50304)
        yield optimizer(124_439_808)
    yield embedding_gradient(rows, width, vocabulary)
    yield from gelu(rows, 4 * width, HALF)
    yield attention_delta(rows * width // 64 or 1, 64, HALF)
    yield from products(rows, width, vocabulary)
