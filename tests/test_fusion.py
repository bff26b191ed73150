"""Fusion: a captured step becomes fewer launches that give the same bits, and says what became of each."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import dualml as dm
from dualml import nn, optim
from dualml.kernel import Kernel
from dualml.models import GPT, GPTConfig
from dualml.programs import Program, fuse, naming
from tests.training import training_step

F = nn.functional
Step = Callable[..., Any]


def _arrays(value: Any) -> list[np.ndarray]:
    return [value.numpy()] if isinstance(value, dm.Tensor) else [a for v in value for a in _arrays(v)]


def check(step: Step, *inputs: np.ndarray, exact: bool = True) -> Program:
    """Captures a step with and without fusion and compares replays. Returns the fused program."""
    found, ways = [], (dm.capture(step), dm.capture(step, fusion=False))
    others = [np.ascontiguousarray(x.reshape(-1)[::-1]).reshape(x.shape) for x in inputs]
    for way in ways:
        dm.manual_seed(5)
        for _ in range(2):
            way(*[dm.tensor(x) for x in inputs])
        found.append(_arrays(way(*[dm.tensor(x) for x in others])))
    fused, plain = ways
    for one, two in zip(*found, strict=True):
        if exact:
            assert one.tobytes() == two.tobytes()
        else:
            np.testing.assert_allclose(one, two, rtol=2e-6, atol=2e-6)
    assert fused.programs[0].recorded == plain.programs[0].launches
    return fused.programs[0]


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


# ---- elementwise ----------------------------------------------------------------------------------------------------

CHAINS: dict[str, tuple[Step, int]] = {
    "chain": (lambda x, y: ((x + y) * 2 - x).tanh().exp(), 1),
    "two results": (lambda x, y: (x * y, (x * y + 1).relu()), 1),
    "tree": (lambda x, y: (x.sigmoid() * y + y.exp()) / (x.square() + 1), 1),
    "condition": (lambda x, y: dm.where((x > y) & (x > 0), x * 2, y - 1), 1),
    "predicate": (lambda x, y: (x + 1 > y, (x + 1) * y), 1),
    "dropout": (lambda x, y: F.dropout(F.dropout(x + y, 0.3, training=True) * 2, 0.5, training=True) + x, 1),
    "row": (lambda x, y: (x + y[0]).relu() * y[1], 3),  # slices are launches of their own
    "column": (lambda x, y: (x * y[:, :1] + 1).exp(), 2),
    "clamped": (lambda x, y: (x.clamp(-1, 1) + y).maximum(y * 0.5), 1),
    "turns and remainders": (lambda x, y: ((x * 40).sin() * 9 % y + (y - x).cos()) // 0.3, 1),
    "whole numbers": (lambda x, y: ((x * 9).to(dm.int32) * 3 + 1) * 2, 3),
}


@pytest.mark.parametrize("shape", [(8, 12), (5, 7), (130, 260)], ids=str)
@pytest.mark.parametrize("name", CHAINS)
def test_chains_are_one_kernel(backend: str, name: str, shape: tuple[int, int]) -> None:
    """With the bits of separate kernels, where those have them."""
    step, most = CHAINS[name]
    if backend == "cuda_on_cpu" and shape[0] > 100:
        shape = (33, 68)
    x, y = normal(*shape), normal(*shape, seed=1)
    program = check(step, x, y)
    if name == "dropout" and x.size % 4:
        most = 5  # a random counter makes four words
    copies = sum(item.name in ("copy", "clone_forward") for item in program.items)
    assert program.launches - copies <= most, program


def test_half_precision_is_rounded_between(fast_backend: str) -> None:
    """To the bits that separate kernels store."""
    def step(x: dm.Tensor, y: dm.Tensor) -> dm.Tensor:
        half = x.to("float16")
        return ((half + y.to("float16")) * 3 - half).exp().to("float32")
    program = check(step, normal(16, 16), normal(16, 16, seed=1))
    assert "fused" in [item.name for item in program.items]


def test_gradients_of_chains(backend: str) -> None:
    """Backward kernels join as well."""
    def step(x: dm.Tensor, y: dm.Tensor) -> tuple[dm.Tensor, ...]:
        x, y = x.detach().requires_grad_(), y.detach().requires_grad_()
        ((x * y).sigmoid() * x.tanh()).sum().backward()
        return x.grad, y.grad
    program = check(step, normal(12, 20), normal(12, 20, seed=1))
    assert program.launches <= 0.5 * program.recorded


def test_what_is_used_between_is_kept(backend: str) -> None:
    """A launch does not move over one that changes what it reads, or that reads what it makes."""
    def step(x: dm.Tensor) -> tuple[dm.Tensor, ...]:
        a = x + 1
        total = a.sum()
        b = a * total
        return b, total, a
    check(step, normal(9, 8))


def test_in_place_updates_keep_their_order(fast_backend: str) -> None:
    """A weight that a step changes between two readings of it."""
    weight = dm.nn.Parameter(dm.tensor(normal(8, 8)))
    optimizer = optim.SGD([weight], 0.1)

    def step(x: dm.Tensor) -> tuple[dm.Tensor, dm.Tensor]:
        before = weight.detach() * 2
        optimizer.zero_grad()
        (weight * x).sum().backward()
        optimizer.step()
        return before + 1, weight.detach() * 2 + 1
    for fusion in (True, False):
        captured = dm.capture(step, fusion=fusion)
        for _ in range(4):
            before, after = captured(dm.tensor(normal(8, 8, seed=2)))
        np.testing.assert_allclose(before.numpy() - after.numpy(), 0.2 * normal(8, 8, seed=2), atol=1e-5)


# ---- training steps -------------------------------------------------------------------------------------------------

class Training:
    """Sizes that let every rule apply: 64 tokens, and widths that are multiples of 4."""

    def __init__(self, fusion: bool, dropout: float = 0.2) -> None:
        dm.manual_seed(3)
        self.model = GPT(GPTConfig(vocab_size=32, context=32, layers=2, heads=2, width=32, dropout=dropout,
                                   head_bias=True))
        self.optimizer = optim.AdamW(self.model.parameters(), 1e-2)
        self.step: Any = dm.capture(training_step(self.model, self.optimizer), fusion=fusion)

    def run(self, steps: int) -> tuple[list[float], list[np.ndarray]]:
        rng = np.random.default_rng(4)
        losses = []
        for _ in range(steps):
            tokens, targets = (rng.integers(0, 32, (2, 32)).astype(np.int32) for _ in range(2))
            losses.append(self.step(tokens, targets).item())
        return losses, [p.detach().numpy() for p in self.model.parameters()]


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_a_training_run_is_the_same_bit_for_bit(backend: str, dropout: float) -> None:
    steps = 30 if backend in ("cpu", "webgpu") else 4
    (losses, weights), training = Training(False, dropout).run(steps), Training(True, dropout)
    found, moved = training.run(steps)
    assert found == losses
    for one, two in zip(moved, weights, strict=True):
        np.testing.assert_array_equal(one, two)
    (program,) = training.step.programs
    names = [item.name for item in program.items]
    pairs = names.count("matmul_pair")
    assert names.count("sum_jobs") < (names.count("matmul") + 2 * pairs) / 4
    assert names.count("sum_columns") < 2
    assert pairs == (0 if backend == "cpu" else 9)
    assert "sum_partials" not in names
    if dropout:
        assert "dropout_forward" not in names
        assert names.count("dropout_layer_norm_forward") == names.count("layer_norm_dropout_backward") == 5
        assert program.launches < 0.7 * program.recorded


def test_the_large_models_step_has_half_the_launches(fast_backend: str) -> None:
    """Of the 12.3M GPT with dropout, clipping and AdamW; the width does not change their number. The cpu backend's
    products are NumPy's, one at a time."""
    dm.manual_seed(0)
    model = GPT.from_preset("gpt-12m", 64, width=48)
    step: Any = dm.capture(training_step(model, optim.AdamW(model.parameters(), 1e-3)))
    for _ in range(3):
        step(*np.zeros((2, 4, 256), np.int32))
    program = step.programs[0]
    assert program.launches <= (148 if fast_backend == "cpu" else program.recorded // 2), program.explain()


def test_explained(cpu: None) -> None:
    training = Training(True)
    training.run(3)
    text = training.step.programs[0].explain()
    assert "launches became" in text
    for done in ("adds its residual", "drops out what it reads", "last steps of sums"):
        assert done in text
    plain = Training(False)
    plain.run(3)
    assert "not fused" in plain.step.programs[0].explain()


# ---- copies, constants and what is equal ----------------------------------------------------------------------------

def test_equal_launches_are_done_once(backend: str) -> None:
    def step(x: dm.Tensor) -> tuple[dm.Tensor, dm.Tensor]:
        return x.softmax(-1).sum(0), x.softmax(-1).sum(1)
    program = check(step, normal(8, 12))
    assert [item.name for item in program.items].count("softmax_forward") == 1
    assert "is done once" in program.explain()


def test_copies_that_nobody_changes_are_not_made(backend: str) -> None:
    def step(x: dm.Tensor) -> dm.Tensor:
        return (x.softmax(-1).clone() @ x).clone().softmax(-1)
    program = check(step, normal(8, 8))
    assert program.launches <= 4, program


def test_constants_are_made_once(backend: str) -> None:
    def step(x: dm.Tensor) -> dm.Tensor:
        return (x @ dm.full((8, 4), 2.0)).softmax(-1)
    program = check(step, normal(8, 8))
    assert "fill_forward" not in [item.name for item in program.items]


def test_random_numbers_are_not_constants(fast_backend: str) -> None:
    captured = dm.capture(lambda x: x + dm.randn(8, 8))
    found = [captured(dm.zeros(8, 8)).numpy() for _ in range(4)]
    assert len({f.tobytes() for f in found}) == 4


# ---- what must stay apart -------------------------------------------------------------------------------------------

def _changed_between(x: dm.Tensor) -> tuple[dm.Tensor, ...]:
    """Two equal launches, the first's result changed before the second."""
    product, zeros = x @ x.T, dm.zeros(64, 64)
    product.add_(1)
    zeros.add_(2)
    return (x @ x.T).tanh(), dm.zeros(64, 64) + 1, product, zeros.softmax(-1)


def _dropped_twice(x: dm.Tensor) -> dm.Tensor:
    dropped = F.dropout(x, 0.5, training=True)
    return F.layer_norm(dropped + dropped, (8,))


def _norms_without_weights(x: dm.Tensor) -> tuple[dm.Tensor, ...]:
    """Their kernels have a result without elements."""
    x = x.detach().requires_grad_()
    dropped = F.dropout(x * 2, 0.5, training=True)
    h = F.layer_norm(F.layer_norm(dropped, (8,)) + dropped, (8,))
    (h * h * x).sum().backward()
    return h, x.grad


def _read_as_its_own_weight(x: dm.Tensor) -> dm.Tensor:
    total = x[:1] + x[1:2]
    return F.layer_norm(total, (8,), total.reshape(8)) * 2


@pytest.mark.parametrize("step", [_changed_between, _dropped_twice, _norms_without_weights, _read_as_its_own_weight])
def test_what_only_looks_alike(fast_backend: str, step: Step) -> None:
    check(step, normal(64, 8))


@pytest.mark.parametrize("fusion", [False, True])
def test_state_that_is_read_and_changed(fast_backend: str, fusion: bool) -> None:
    """WebGPU refuses launches that read from a buffer and write to it: a tensor in place, and an arena's neighbours."""
    average, weights = dm.zeros(8, 8), [nn.Parameter(dm.full((8, 8), float(k))) for k in range(3)]
    optim.SGD(weights, 0.1)

    @dm.capture(fusion=fusion)
    def step(x: dm.Tensor) -> dm.Tensor:
        average.mul_(0.5).add_(x * 0.5)
        with dm.no_grad():
            weights[1].copy_((weights[0] * 2 + x).relu())
            weights[2].copy_(F.layer_norm(weights[0] + x, (8,)))
        return average * 1
    x = normal(8, 8)
    for number in range(4):
        found = step(dm.tensor(x)).numpy()
        np.testing.assert_allclose(found, x * (1 - 0.5 ** (number + 1)), rtol=1e-5)
    np.testing.assert_array_equal(weights[1].detach().numpy(), np.maximum(x, 0))
    np.testing.assert_allclose(weights[2].detach().numpy().std(1), 1, rtol=1e-3)


def test_a_gradient_that_is_a_neighbours(fast_backend: str) -> None:
    """The rows that an embedding's gradient adds up lie in the memory that it is added to."""
    table, other = nn.Parameter(dm.tensor(normal(5, 64))), nn.Parameter(dm.tensor(normal(4, 64, seed=1)))
    optimizer = optim.SGD([table, other], 0.1)

    def step(x: dm.Tensor) -> tuple[dm.Tensor, ...]:
        optimizer.zero_grad()
        ((other * x).sum() + (table * table).sum()).backward()
        F.embedding(dm.arange(4), table).backward(other.grad)
        return table.grad * 1, other.grad * 1
    check(step, normal(4, 64, seed=2))


def test_no_file_has_the_kernels_of_fusion() -> None:
    """A table of sum_jobs says where it writes, which nobody checks."""
    modules = {importlib.import_module(rule.__module__) for rule in fuse.PASSES}
    made = {value.name for module in modules for value in vars(module).values() if isinstance(value, Kernel)}
    assert made - {"cast_forward"} == naming._OF_FUSION


# ---- pairs of products ----------------------------------------------------------------------------------------------

@pytest.mark.parametrize(("step", "expected"), [
    (lambda x: (x @ x.T, x.T @ x), (0, 1)),
    (lambda x: (x @ x.T, x.T @ x, x[:9] @ x.T), (1, 1)),
    (lambda x: (x.T @ x) @ (x.T @ x + 1), (2, 0)),        # one is the other's twin
    (lambda x: (x @ (x.T @ x), x.T @ x * 2), (2, 0)),
    (lambda x: (x[:1] @ x.T, x.T @ x), (2, 0)),           # a vector
    (lambda x: (x.reshape(2, 32, 8) @ x.reshape(2, 8, 32), x.T @ x), (2, 0)),
    (lambda x: (F.linear(x, x, x[:, 0].reshape(64)), x.T @ x), (2, 0)),
])
def test_products_side_by_side(fast_backend: str, step: Step, expected: tuple[int, int]) -> None:
    names = [item.name for item in check(step, normal(64, 8)).items]
    single, pairs = expected if fast_backend != "cpu" else (expected[0] + 2 * expected[1], 0)
    assert (names.count("matmul"), names.count("matmul_pair")) == (single, pairs)
