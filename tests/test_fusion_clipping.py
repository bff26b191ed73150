"""Clipping in the launch of AdamW's step: the bits of two launches, in weights, state and the gradients left behind."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

import dualml as dm
from dualml import nn, optim
from dualml.programs import Program

F = nn.functional


Between = Callable[[list[nn.Parameter], dm.Tensor], dm.Tensor]


def train(kind: type[optim.Optimizer], max_norm: float, fusion: bool, *, scale: float = 1.0, groups: int = 1,
          dtype: str = "float32", factor: float = 1.0,
          between: Between | None = None) -> tuple[Program, list[np.ndarray]]:
    """Six captured steps, and all that they leave: parameters, gradients, the optimizer's state and what was seen."""
    rng = np.random.default_rng(3)
    weights = [nn.Parameter(dm.tensor(rng.standard_normal(shape).astype(np.float32)).to(dtype))
               for shape in ((12, 8), (8,), (3, 8))]
    optimizer = kind([{"params": weights[i::groups], "lr": 0.1 / (i + 1)} for i in range(groups)])
    steps = dm.tensor(np.array([scale], np.float32))

    def step(x: dm.Tensor) -> tuple[dm.Tensor, dm.Tensor]:
        optimizer.zero_grad()
        hidden = F.linear(x, weights[0].transpose(0, 1), weights[1]).tanh()
        (F.linear(hidden, weights[2]).square().sum() * factor).backward()
        norm = optim.clip_grad_norm_(weights, max_norm)
        seen = between(weights, norm) if between else norm
        optimizer.step(steps)
        return norm, seen
    captured = dm.capture(step, fusion=fusion)
    for _ in range(6):
        seen = captured(dm.tensor(rng.standard_normal((5, 12)).astype(np.float32)).to(dtype))
    entries = optimizer.state_dict()["state"].values()
    state = [value for entry in entries for value in entry.values() if isinstance(value, dm.Tensor)]
    assert state
    left = [*weights, *[w.grad for w in weights], *state, *seen]
    return captured.programs[0], [t.detach().numpy() for t in left if t is not None]


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("scale", [1.0, 0.5, 0.0])
@pytest.mark.parametrize("max_norm", [0.01, 1e9])
@pytest.mark.parametrize("kind", [optim.AdamW, optim.Adam])
def test_bits_are_those_of_two_launches(backend: str, kind: type[optim.Optimizer], max_norm: float, scale: float,
                                        groups: int) -> None:
    """A scale of 0 leaves the weights alone, and clips what everyone can see all the same."""
    program, found = train(kind, max_norm, True, scale=scale, groups=groups)
    plain, expected = train(kind, max_norm, False, scale=scale, groups=groups)
    names = [item.name for item in program.items]
    assert names.count("clip_adamw") == groups
    assert not {"adamw", "scale_by_norm"} & set(names)
    assert [item.name for item in plain.items].count("scale_by_norm") == groups
    assert "scales the gradients as it reads them" in program.explain()
    for one, two in zip(found, expected, strict=True):
        assert one.tobytes() == two.tobytes()


@pytest.mark.parametrize("scale", [1.0, 0.0])
def test_a_norm_that_is_no_number(backend: str, scale: float) -> None:
    program, found = train(optim.AdamW, 1.0, True, scale=scale, factor=float("nan"))
    assert "clip_adamw" in [item.name for item in program.items]
    assert np.isnan(found[3]).all()
    assert np.isnan(found[0]).all() == bool(scale)
    for one, two in zip(found, train(optim.AdamW, 1.0, False, scale=scale, factor=float("nan"))[1], strict=True):
        np.testing.assert_array_equal(one, two)


def _look(weights: list[nn.Parameter], norm: dm.Tensor) -> dm.Tensor:
    assert weights[0].grad is not None
    return weights[0].grad * 1


def _change(weights: list[nn.Parameter], norm: dm.Tensor) -> dm.Tensor:
    assert weights[0].grad is not None
    return weights[0].grad.mul_(2.0)


def _clip_again(weights: list[nn.Parameter], norm: dm.Tensor) -> dm.Tensor:
    return optim.clip_grad_norm_(weights, 0.001)


def _change_norm(weights: list[nn.Parameter], norm: dm.Tensor) -> dm.Tensor:
    return norm.mul_(0.0)


@pytest.mark.parametrize(("between", "dtype", "fused"), [
    (_look, "float32", 0), (_change, "float32", 0), (_clip_again, "float32", 1), (_change_norm, "float32", 0),
    (None, "float16", 0)])
def test_what_must_stay_apart(fast_backend: str, between: Between | None, dtype: str, fused: int) -> None:
    """Who looks or writes in between; only the last of two clippings may wait; 16 bits round what is scaled."""
    program, found = train(optim.AdamW, 0.01, True, dtype=dtype, between=between)
    assert [item.name for item in program.items].count("clip_adamw") == fused
    for one, two in zip(found, train(optim.AdamW, 0.01, False, dtype=dtype, between=between)[1], strict=True):
        assert one.tobytes() == two.tobytes()
