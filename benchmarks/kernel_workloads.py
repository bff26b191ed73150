"""Work that leads to the kernels which the 12.3M GPT's training step has no use for, at sizes of training (16,384
tokens, width 384) and of writing text. kernel_table.py counts what they take.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

import dualml as dm
from dualml import nn, optim, runtime
from dualml.array import run
from dualml.backends.base import Buffer
from dualml.data.batches import ArrayStream, WindowBatches
from dualml.data.on_device import DeviceBatches
from dualml.kernel import Spec
from dualml.models import GPT
from dualml.models.speculative import SpeculativeDecoding
from dualml.nn import functional as F
from dualml.ops.matmul_epilogues import linear_gelu, linear_gelu_gradient, matmul_sums
from dualml.ops.matmul_pair import matmul_pair
from dualml.ops.optimizer import clip_adamw
from dualml.ops.random import bernoulli
from dualml.programs.recording import Item, Place
from dualml.random import default_generator

TOKENS, WIDTH, HEADS, VOCABULARY = 16384, 384, 6, 4096


def normal(*shape: int, dtype: str = "bfloat16", grad: bool = False) -> Any:
    return dm.randn(*shape).to(dtype).detach().requires_grad_(grad)


def whole(*shape: int) -> Any:
    return dm.tensor(np.zeros(shape, np.int32))


def creation() -> None:
    dm.full((TOKENS, WIDTH), 2.0)
    dm.arange(TOKENS * WIDTH)
    dm.linspace(0, 1, TOKENS * WIDTH)
    dm.eye(VOCABULARY)
    dm.rand(TOKENS, WIDTH)
    dm.randint(0, VOCABULARY, (TOKENS,))
    bernoulli(dm.rand(TOKENS, WIDTH)._array, default_generator())
    F.dropout(normal(TOKENS, WIDTH), 0.1)
    dm.multinomial(dm.rand(64, VOCABULARY), 8, replacement=True)


ELEMENTWISE = {"add_forward", "exp_forward", "sin_forward", "sin_backward_a", "gelu_forward", "where_forward",
               "eq_forward", "fused"}  # of their one source


def elementwise() -> None:
    x, y = normal(TOKENS, WIDTH), normal(TOKENS, WIDTH)
    wide = normal(TOKENS, WIDTH, dtype="float32", grad=True)
    x + y, x.exp(), F.gelu(x), dm.where(x == y, x, y)
    wide.sin().sum().backward()
    chain = dm.capture(lambda x, y: ((x + y) * 2 - x).tanh().exp())
    for _ in range(3):
        chain(x, y)


def folds() -> None:
    """Both kinds: of rows, and of columns."""
    for dim in (1, 0):
        for fold in (dm.Tensor.sum, dm.Tensor.amax, dm.Tensor.amin, dm.Tensor.prod, dm.Tensor.var, dm.Tensor.std,
                     dm.Tensor.logsumexp):
            fold(normal(TOKENS, WIDTH, dtype="float32", grad=True), dim).sum().backward()
        x = normal(TOKENS, WIDTH)
        for look in (dm.Tensor.any, dm.Tensor.all, dm.Tensor.argmax, dm.Tensor.argmin):
            look(x, dim)
    whole_logits = normal(64, VOCABULARY * 12, dtype="float32")
    for look in (dm.Tensor.argmax, dm.Tensor.argmin, dm.Tensor.var):
        look(whole_logits, 1)


def layouts() -> None:
    x = normal(64, 256, HEADS, 64, grad=True)
    x.permute(0, 2, 1, 3).sum().backward()
    x.permute(3, 1, 0, 2)
    x[:, ::2, :, 1:].sum().backward()
    x[:, ::-1].sum()
    dm.cat([x, x], 1).sum().backward()
    normal(TOKENS, WIDTH).T.contiguous()
    dm.tril(normal(VOCABULARY, VOCABULARY))


def tables() -> None:
    weight, rows = normal(VOCABULARY, WIDTH, dtype="float32", grad=True), whole(TOKENS)
    F.embedding(rows, weight).sum().backward()
    normal(TOKENS, WIDTH).index_select(0, rows)
    logits = normal(TOKENS, VOCABULARY, dtype="float32", grad=True)
    logits.gather(1, whole(TOKENS, 1)).sum().backward()
    logits.detach().topk(50)
    logits.detach().sort()
    logits.detach().cumsum(1)


def losses() -> None:
    logits = normal(TOKENS, VOCABULARY, grad=True)
    F.softmax(logits).sum().backward()
    F.log_softmax(logits).sum().backward()
    F.cross_entropy(logits, whole(TOKENS)).backward()


def layers() -> None:
    x = normal(TOKENS, WIDTH, grad=True)
    one = normal(WIDTH, grad=True)
    F.layer_norm(x, (WIDTH,), one, one).sum().backward()
    F.rms_norm(x, (WIDTH,), one).sum().backward()
    F.swiglu(normal(TOKENS, 8 * WIDTH, grad=True)).sum().backward()
    F.rope(normal(64, 256, WIDTH, grad=True), normal(256, 2, 32, dtype="float32"), HEADS).sum().backward()
    qkv = normal(TOKENS, 3 * WIDTH, grad=True)
    F.attention_qkv(qkv, HEADS, cu_seqlens=dm.arange(65) * 256).sum().backward()


def optimizers() -> None:
    for make in (lambda p: optim.SGD(p, 0.1), lambda p: optim.SGD(p, 0.1, momentum=0.9), lambda p: optim.AdamW(p)):
        model = nn.Linear(VOCABULARY, 3008)
        if make(model.parameters()).__class__ is optim.AdamW:
            model = model.to("bfloat16")
        optimizer = make(model.parameters())
        for _ in range(2):
            model(normal(64, VOCABULARY, dtype=model.weight.dtype.name)).sum().backward()
        optim.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()


def clipping() -> None:
    """What fusion makes of clip_grad_norm_ and the step behind it."""
    arrays = [normal(VOCABULARY * 3008, dtype="float32")._array for _ in range(4)]
    numbers = [dm.ones(size)._array for size in (9, 1, 1)]
    run(clip_adamw, *arrays, *numbers, decoupled=1, max_norm=1.0)


def pairs() -> None:
    """What fusion makes of a linear layer's gradients where no library makes products: of x, and of the weight."""
    dout, weight, x = normal(TOKENS, 4 * WIDTH), normal(4 * WIDTH, WIDTH), normal(TOKENS, WIDTH)
    run(matmul_pair, dout._array, weight._array, dout._array, x._array, M=TOKENS, N=WIDTH, K=4 * WIDTH, ta=0, tb=0,
        M2=4 * WIDTH, N2=WIDTH, K2=TOKENS, ta2=1, tb2=0)


def epilogues() -> None:
    """An MLP's two passes, where products do more than multiply."""
    x, dout = (normal(TOKENS, WIDTH)._array for _ in range(2))
    weight, weight2, bias = (normal(*s)._array for s in ((4 * WIDTH, WIDTH), (WIDTH, 4 * WIDTH), (4 * WIDTH,)))
    hidden, pre = linear_gelu(x, weight, bias, 1)
    linear_gelu_gradient(dout, weight2, pre, 1)
    run(matmul_sums, dout, hidden, M=WIDTH, N=4 * WIDTH, K=TOKENS, ta=1, tb=0)


def writing() -> None:
    """16 texts of 1,000 tokens, and one that a smaller model drafts."""
    model = GPT.from_preset("gpt-12m", VOCABULARY, context=2048)
    for cache in (None, "int8"):
        model.generate([[1] * 1000] * 16, 3, top_p=0.9, cache=cache, repetition_penalty=1.1)
    writer = SpeculativeDecoding(model, model, ahead=4, captured=False)
    writer.read([1] * 1000)
    tokens = iter(writer)
    next(tokens), next(tokens)


def batches() -> None:
    tokens = ArrayStream(np.zeros(10_000_000, np.int32))
    DeviceBatches(WindowBatches({"train": tokens, "val": tokens}, 256, 64), runtime.get_backend()).next("train")


WORK: tuple[Callable[[], None], ...] = (creation, elementwise, folds, layouts, tables, losses, layers, pairs, epilogues,
                                         optimizers, clipping, writing, batches)


class Noted:
    """A hook on the one door, in a `with`: each launch as an Item."""

    def __init__(self) -> None:
        self.items: list[Item] = []
        self._numbers = WeakKeyDictionary[Buffer, int]()  # a capture keeps what somebody holds
        self._next = count()

    def __enter__(self) -> list[Item]:
        runtime.hooks.append(self)
        return self.items

    def __exit__(self, *error: object) -> None:
        runtime.hooks.remove(self)

    def before(self, launch: runtime.Launch) -> None:
        places = tuple(Place(self._numbers.setdefault(b.buffer, next(self._next)), b.offset, b.nbytes)
                       for b in launch.bindings)
        self.items.append(Item(places, "", launch.spec, launch.program, launch.params, launch.groups, launch.dims))

    def after(self, launch: runtime.Launch) -> None: ...


def sizes(dims: Any) -> str:
    """A launch's dimensions, as its kernel's signature names them."""
    return " ".join(f"{name} {int(value):,}" for name, value in dims.items()
                    if (len(name) == 1 or name == "TQ") and name.isupper() and value > 1)


def launch_name(spec: Spec, dims: Any) -> str:
    """Kernel, variant, dtypes and sizes."""
    dtypes = [spec.dtype(arg).short for arg in spec.kernel.args]
    variant = f".{spec.variant.name}" if spec.variant else ""
    return f"{spec.kernel.name}{variant} {' '.join(dict.fromkeys(dtypes))} | {sizes(dims)}"


def launches() -> list[Item]:
    """What all the work launches on the current backend."""
    with Noted() as items:
        for work in WORK:
            work()
    return items
