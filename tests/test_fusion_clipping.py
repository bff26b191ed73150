"""Clipping in the launch of AdamW's step: the bits of two launches, in weights, state and the gradients left behind."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

import dualml as dm
from dualml import nn, optim
from dualml.programs import Program

F = nn.functional


def train(kind: type[optim.Optimizer], max_norm: float, fusion: bool, *, scale: float = 1.0, groups: int = 1,
          between: Callable[[list[nn.Parameter]], dm.Tensor] | None = None) -> tuple[Program, list[np.ndarray]]:
    """Six captured steps, and all that they leave: parameters, gradients, the optimizer's state and what was seen."""
    rng = np.random.default_rng(3)
    weights = [nn.Parameter(dm.tensor(rng.standard_normal(shape).astype(np.float32)))
               for shape in ((12, 8), (8,), (3, 8))]
    optimizer = kind([{"params": weights[i::groups], "lr": 0.1 / (i + 1)} for i in range(groups)])
    factor = dm.tensor(np.array([scale], np.float32))

    def step(x: dm.Tensor) -> tuple[dm.Tensor, dm.Tensor]:
        optimizer.zero_grad()
        hidden = F.linear(x, weights[0].transpose(0, 1), weights[1]).tanh()
        F.linear(hidden, weights[2]).square().sum().backward()
        norm = optim.clip_grad_norm_(weights, max_norm)
        seen = between(weights) if between else norm
        optimizer.step(factor)
        return norm, seen
    captured = dm.capture(step, fusion=fusion)
    for _ in range(6):
        seen = captured(rng.standard_normal((5, 12)).astype(np.float32))
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


@pytest.mark.parametrize("change", [False, True])
def test_who_looks_in_between_sees_clipped_gradients(fast_backend: str, change: bool) -> None:
    def look(weights: list[nn.Parameter]) -> dm.Tensor:
        assert weights[0].grad is not None
        seen = weights[0].grad * 1
        if change:
            weights[0].grad.mul_(2.0)
        return seen
    program, found = train(optim.AdamW, 0.01, True, between=look)
    assert "clip_adamw" not in [item.name for item in program.items]
    for one, two in zip(found, train(optim.AdamW, 0.01, False, between=look)[1], strict=True):
        assert one.tobytes() == two.tobytes()
