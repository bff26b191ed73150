"""A captured step's cross entropy makes its gradient in the pass that reads the logits, where that is the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import dualml as dm
from dualml import nn
from tests.test_fusion import check, normal

F = nn.functional
Loss = Callable[[dm.Tensor, dm.Tensor], Any]
TARGETS = np.array([3, 0, -100, 11, 7, -100], np.int32)


def _step(loss: Loss, width: int = 12) -> Callable[[dm.Tensor, dm.Tensor], Any]:
    """x and the targets; gives what the loss gives, and the gradient of weights."""
    w = nn.Parameter(dm.tensor(normal(width, 8, seed=3)))
    bias = nn.Parameter(dm.tensor(normal(width, seed=4)))

    def step(x: dm.Tensor, targets: dm.Tensor) -> Any:
        w.grad = bias.grad = None
        made = loss(F.linear(x, w, bias), targets)
        (made[0] if isinstance(made, tuple) else made).backward()
        assert w.grad is not None
        assert bias.grad is not None
        return made, w.grad, bias.grad
    return step


def _squared(logits: dm.Tensor, targets: dm.Tensor) -> dm.Tensor:
    loss = F.cross_entropy(logits, targets)
    return loss * loss


JOINED: dict[str, Loss] = {
    "mean": F.cross_entropy,
    "sum": lambda logits, targets: F.cross_entropy(logits, targets, reduction="sum"),
    "each": lambda logits, targets: (F.cross_entropy(logits, targets, reduction="none") * 0.25).sum(),
    "smoothing": lambda logits, targets: F.cross_entropy(logits, targets, label_smoothing=0.2),
    "other index": lambda logits, targets: F.cross_entropy(logits, targets.maximum(0), ignore_index=0),
    "padded": lambda logits, targets: F.cross_entropy(logits, targets.minimum(8), classes=9),
    "16 bits": lambda logits, targets: F.cross_entropy(logits.to(dm.float16), targets),
    "part of a step": lambda logits, targets: F.cross_entropy(logits, targets) / 4,
    "with others": lambda logits, targets: F.cross_entropy(logits * 2, targets) + (logits * logits).sum() * 0.1,
    "loss beside": lambda logits, targets: ((loss := F.cross_entropy(logits, targets)) * 8, loss * 1.0),
}
KEPT: dict[str, Loss] = {
    "logits beside": lambda logits, targets: (F.cross_entropy(logits, targets), logits),
    "accuracy": lambda logits, targets: (F.cross_entropy(logits, targets), logits.argmax(-1)),
    "its gradient depends on it": _squared,
    "two of the same logits": lambda logits, targets: F.cross_entropy(logits, targets) + F.cross_entropy(
        logits, targets, label_smoothing=0.1),
}


def _names(program: Any) -> set[str]:
    return {item.name for item in program.items if item.name.startswith("cross_entropy")}


@pytest.mark.parametrize("name", JOINED)
def test_one_pass(backend: str, name: str) -> None:
    """With the bits of two."""
    program = check(_step(JOINED[name]), normal(6, 8), TARGETS)
    assert "cross_entropy_in_place" in _names(program), program.explain()
    assert not _names(program) & {"cross_entropy_forward", "cross_entropy_backward"}
    assert "done  cross_entropy_forward" in program.explain() or name in ("sum", "each")


@pytest.mark.parametrize("name", KEPT)
def test_two_passes_where_something_comes_between(backend: str, name: str) -> None:
    program = check(_step(KEPT[name]), normal(6, 8), TARGETS)
    assert {"cross_entropy_forward", "cross_entropy_backward"} <= _names(program)
    assert "kept  cross_entropy_forward" in program.explain()


def test_logits_that_live_on(fast_backend: str) -> None:
    """A leaf's memory is not its gradient's."""
    logits = nn.Parameter(dm.tensor(normal(6, 12)))

    def step(targets: dm.Tensor) -> Any:
        logits.grad = None
        loss = F.cross_entropy(logits, targets)
        loss.backward()
        assert logits.grad is not None
        return loss, logits.grad, logits * 1.0
    assert "cross_entropy_in_place" not in _names(check(step, TARGETS))


@pytest.mark.parametrize("width", [7, 1031, 9004])
def test_long_rows(fast_backend: str, width: int) -> None:
    program = check(_step(F.cross_entropy, width), normal(3, 8), np.array([0, width - 1, width // 2], np.int32))
    assert "cross_entropy_in_place" in _names(program)


def test_loss_scaling(fast_backend: str) -> None:
    """The factor is read on the device, ahead of the loss that it belongs to."""
    def step(x: dm.Tensor, targets: dm.Tensor, factor: dm.Tensor) -> Any:
        return inner(x, targets, factor)

    w = nn.Parameter(dm.tensor(normal(12, 8, seed=3)))

    def inner(x: dm.Tensor, targets: dm.Tensor, factor: dm.Tensor) -> Any:
        w.grad = None
        loss = F.cross_entropy(F.linear(x, w), targets)
        (loss * factor.exp()).backward()
        assert w.grad is not None
        return loss, w.grad
    assert "cross_entropy_in_place" in _names(check(step, normal(6, 8), TARGETS, normal(1)))
