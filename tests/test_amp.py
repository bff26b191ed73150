"""Mixed precision: PyTorch's autocast step by step, float32 weights and gradients, and what happens at an overflow."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dualml as dm
from dualml import amp, nn, optim, runtime
from dualml.errors import DTypeError
from dualml.nn import functional as F
from dualml.train import Trainer, learning_rate
from tests.parity.modes import PRESENT
from tests.test_train import SMALL, losses, make, torch_loss

CONFIG = SMALL.changed(dropout=0.0, lr=3e-3, min_lr=1e-3, batch=4)


def has(backend: str, precision: str) -> bool:
    return dm.dtypes.as_dtype(precision) in runtime.get(backend).dtypes


SHORT = ("float16", "bfloat16")


@pytest.fixture(params=[(b, p) for b in PRESENT for p in SHORT if has(b, p)], ids="-".join)
def place(request: pytest.FixtureRequest) -> Iterator[tuple[str, str]]:
    """A backend, made the current one, and a precision that it has."""
    with runtime.use_backend(request.param[0]):
        yield request.param


def test_a_precision_that_the_device_lacks(backend: str) -> None:
    for name in SHORT:
        if not has(backend, name):
            with pytest.raises(DTypeError, match=f"backend {backend} on .* has no {name}; it has"):
                make(backend, CONFIG.changed(precision=name))


def test_twelve_steps_against_torch_autocast(place: tuple[str, str]) -> None:
    """The losses, and what autocast changes: both differ from float32, by about as much."""
    backend, precision = place
    torch = pytest.importorskip("torch")
    config = CONFIG.changed(precision=precision)
    trainer, full = make(backend, config), losses(make(backend, CONFIG), 12)
    weights = {n: torch.from_numpy(t.numpy().copy()).requires_grad_() for n, t in trainer.model.state_dict().items()}
    groups = [{"params": [w for w in weights.values() if w.ndim > 1], "weight_decay": config.weight_decay},
              {"params": [w for w in weights.values() if w.ndim < 2], "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, betas=(config.beta1, config.beta2))
    scaler = torch.amp.GradScaler("cpu", enabled=precision == "float16")
    expected = []
    for step in range(12):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(config, trainer.plan, step)
        with torch.autocast("cpu", dtype=getattr(torch, precision)):
            loss = torch_loss(torch, weights, *trainer.data.get("train", step))
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(list(weights.values()), config.clip)
        scaler.step(optimizer)
        scaler.update()
        expected.append(loss.item())
    found = losses(trainer, 12)
    np.testing.assert_allclose(found, expected, rtol=2e-3 if precision == "float16" else 1e-2)
    assert found != full
    assert trainer.scaler.state_dict()["skipped"] == 0
    for parameter in trainer.model.parameters():
        assert parameter.dtype is dm.float32


def test_what_computes_in_which_dtype(place: tuple[str, str]) -> None:
    precision = place[1]
    short = dm.dtypes.as_dtype(precision)
    x, w, b = dm.randn(3, 8, requires_grad=True), dm.randn(8, 8, requires_grad=True), dm.randn(8, requires_grad=True)
    ones = dm.ones(8, requires_grad=True)
    with amp.autocast(precision):
        assert F.linear(x, w, b).dtype is short
        assert (x @ w).dtype is short
        assert F.bias_gelu(F.linear(x, w), b).dtype is short
        assert F.attention_qkv(dm.randn(1, 4, 24), 2).dtype is short
        y = F.linear(x, w, b)
        assert F.layer_norm(y, (8,), ones, b).dtype is dm.float32
        assert (y + x).dtype is dm.float32
        assert (y * 2).dtype is short
        assert y.softmax(-1).dtype is y.sum().dtype is y.exp().dtype is dm.float32
        loss = F.cross_entropy(y, dm.tensor([1, 2, 3]))
        assert loss.dtype is dm.float32
        with amp.autocast("float32"):
            assert F.linear(x, w).dtype is dm.float32
    assert F.linear(x, w).dtype is dm.float32
    loss.backward()
    for leaf in (x, w, b):
        assert leaf.grad is not None
        assert leaf.grad.dtype is dm.float32


def test_a_recomputed_segment_is_cast_too(cpu: None) -> None:
    x, w = dm.randn(3, 4, requires_grad=True), dm.randn(4, 4, requires_grad=True)
    kinds: list[Any] = []

    def segment(t: dm.Tensor) -> dm.Tensor:
        made = F.linear(t, w)
        kinds.append(made.dtype)
        return made.float()

    with amp.autocast("float16"):
        loss = dm.checkpoint(segment, x).sum()
    loss.backward()
    assert kinds == [dm.float16, dm.float16]


def step(scaler: amp.LossScaler, gradient: float) -> tuple[float, float]:
    """One step of a weight of 1 with SGD at rate 1: the weight after it and the reported norm."""
    weight = dm.nn.Parameter(dm.ones(1))
    optimizer = dm.optim.SGD([weight], lr=1.0)
    weight.grad = dm.full((1,), gradient)
    factor, norm = scaler.factor(dm.optim.grad_norm([weight]), 0.0)
    optimizer.step(factor)
    return weight.item(), norm.item()


def test_an_overflow_halves_the_scale_and_good_steps_double_it(backend: str) -> None:
    scaler = amp.LossScaler("float16", backend, start=8.0, growth_steps=3)
    assert scaler.seed().item() == 8.0
    assert scaler.seed(4).item() == 2.0
    assert step(scaler, 4.0) == (0.5, 0.5)  # the scale is taken off
    assert step(scaler, float("inf"))[0] == 1.0
    assert scaler.state_dict() == {"scale": 4.0, "good": 0.0, "skipped": 1.0, "stopped": 0.0}
    assert step(scaler, float("nan"))[0] == 1.0
    assert scaler.state_dict()["scale"] == 2.0
    for _ in range(3):
        assert step(scaler, 1.0) == (0.5, 0.5)
    assert scaler.state_dict() == {"scale": 4.0, "good": 0.0, "skipped": 2.0, "stopped": 0.0}
    other = amp.LossScaler("float16", backend)
    other.load_state_dict(scaler.state_dict())
    assert other.state_dict() == scaler.state_dict()


@pytest.mark.parametrize("kind", ["float32", "float16"])
def test_at_a_scale_of_one_everything_stands_still(kind: str, fast_backend: str) -> None:
    scaler = amp.LossScaler(kind, fast_backend, start=1.0)
    assert step(scaler, 0.5) == (0.5, 0.5)
    assert step(scaler, float("nan"))[0] == 1.0
    assert step(scaler, 0.5)[0] == 1.0
    assert scaler.state_dict()["stopped"] == 1.0


def test_clipping_in_the_factor_is_clip_grad_norm(fast_backend: str) -> None:
    weights = [dm.nn.Parameter(dm.randn(5)), dm.nn.Parameter(dm.randn(3))]
    for clip in (0.1, 100.0):
        for weight in weights:
            weight.grad = dm.randn(*weight.shape)
        given = dm.optim.grad_norm(weights)
        factor, norm = amp.LossScaler("float32", fast_backend).factor(given, clip)
        row = amp.LossScaler("float32", fast_backend).factor(given.reshape(1), clip)  # a norm still, not its square
        assert [t.item() for t in row] == [factor.item(), norm.item()]
        wanted = [w.grad.numpy() * factor.item() for w in weights if w.grad is not None]
        squares = dm.optim.grad_squares(weights)
        found = amp.LossScaler("float32", fast_backend).factor(squares, clip)
        assert [t.item() for t in found] == [factor.item(), norm.item()]
        assert dm.optim.clip_grad_norm_(weights, clip).item() == norm.item()
        for weight, values in zip(weights, wanted, strict=True):
            np.testing.assert_allclose(weight.grad.numpy(), values, rtol=1e-6)  # type: ignore[union-attr]


def test_a_run_that_overflows_goes_on(fast_backend: str) -> None:
    """A scale far too large: its steps are skipped, count for nothing, and it comes down until they are not."""
    config = CONFIG.changed(precision="float16")
    trainer = make(fast_backend, config)
    trainer.scaler = amp.LossScaler("float16", fast_backend, start=2.0**24)
    before = trainer.model.wte.weight.detach().numpy()
    trainer.train_step()
    assert (trainer.model.wte.weight.detach().numpy() == before).all()
    assert set(trainer.optimizer.state_dict()["steps"]) == {0}
    found = losses(trainer, 19)
    state = trainer.scaler.state_dict()
    assert 0 < state["skipped"] < 12
    assert set(trainer.optimizer.state_dict()["steps"]) == {20 - state["skipped"]}
    assert state["scale"] == 2.0**(24 - state["skipped"])
    assert found[-1] < found[0]


def test_resume_with_a_loss_scale_is_exact(fast_backend: str, tmp_path: Path) -> None:
    config = CONFIG.changed(precision="float16")

    def scaled(folder: Path | None = None) -> Trainer:
        trainer = make(fast_backend, config, folder)
        trainer.scaler = amp.LossScaler("float16", fast_backend, start=2.0**21, growth_steps=4)
        return trainer

    whole, first, second = scaled(), scaled(tmp_path), scaled(tmp_path)
    expected = losses(whole, 14)
    losses(first, 7)
    path = first.save()
    assert path is not None
    second.restore(path)
    assert losses(second, 7) == expected
    assert second.scaler.state_dict() == whole.scaler.state_dict()
    assert whole.scaler.state_dict()["skipped"] > 0


def test_what_is_refused() -> None:
    with pytest.raises(DTypeError, match="dtype must be one of float32, float16, bfloat16, got int32"):
        amp.autocast("int32")
    with pytest.raises(DTypeError, match=r"precision must be one of .* got float64"):
        amp.check("float64", "cpu")


def test_only_the_last_step_is_not_counted(cpu: None) -> None:
    """One that found no gradients did not count, so that there is nothing to take back."""
    weight = nn.Parameter(dm.ones(3))
    optimizer = optim.AdamW([weight], 0.1)
    for scale in (1.0, 0.0):
        (weight * weight).sum().backward()
        optimizer.step(dm.full((1,), scale))
        optimizer.zero_grad()
    optimizer.uncount()
    assert optimizer.state_dict()["steps"] == [1]
    optimizer.uncount()
    (weight * weight).sum().backward()
    optimizer.step()
    optimizer.zero_grad()
    optimizer.step(dm.zeros(1))  # without gradients
    optimizer.uncount()
    assert optimizer.state_dict()["steps"] == [2]
