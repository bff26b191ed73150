"""Arguments of captured steps: each call's own, however they were passed when the step was recorded."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import dualml as dm
from dualml import nn, optim
from dualml.errors import CaptureError


def test_an_argument_passed_twice_is_two_arguments(fast_backend: str) -> None:
    step = dm.capture(lambda x, y: x * 10 + y)
    one, two = dm.ones(3), dm.full((3,), 2.0)
    for _ in range(3):
        np.testing.assert_array_equal(step(one, one).numpy(), 11)
    np.testing.assert_array_equal(step(one, two).numpy(), 12)
    np.testing.assert_array_equal(step(two, one).numpy(), 21)


def test_an_argument_that_the_step_also_uses_from_outside(fast_backend: str) -> None:
    outside, other = dm.ones(3), dm.full((3,), 2.0)
    step = dm.capture(lambda x: x * 10 + outside)
    for _ in range(3):
        np.testing.assert_array_equal(step(outside).numpy(), 11)
    np.testing.assert_array_equal(step(other).numpy(), 21)


def test_a_part_of_an_arena_as_an_argument(fast_backend: str) -> None:
    """Its memory does not begin where its buffer does."""
    weights = [nn.Parameter(dm.full((5,), float(k))) for k in range(3)]
    optim.SGD(weights, 0.1)
    step = dm.capture(lambda x: x * 10 + weights[0].detach())
    for _ in range(2):
        for k in (1, 2, 0):
            np.testing.assert_array_equal(step(weights[k].detach()).numpy(), 10 * k)
    with pytest.raises(CaptureError, match=r"argument 0 of <lambda> must be a tensor of its own"):
        dm.capture(lambda x: x * 2)(weights[1])


def test_equal_numbers_of_other_types_have_their_own_programs(fast_backend: str) -> None:
    step = dm.capture(lambda x, k: x * k)
    x = dm.tensor(np.arange(4, dtype=np.int32))
    for _ in range(3):
        assert step(x, 2).dtype is dm.int32
    for _ in range(3):
        assert step(x, 2.0).dtype is dm.float32


def test_equal_keys_of_other_types_do_too(fast_backend: str) -> None:
    step = dm.capture(lambda x, names: x * (3 if next(iter(names)) is True else 5))
    x = dm.ones(2)
    for names, factor in (({1: 0}, 5), ({True: 0}, 3), ({1.0: 0}, 5)):
        for _ in range(3):
            assert step(x, names).tolist() == [factor, factor]
    assert len(step.programs) == 3
    within = dm.capture(lambda x, names: x * (3 if next(iter(names))[0] is True else 5))
    for number, factor in ((1, 5), (True, 3)):
        for _ in range(3):
            assert within(x, {(number,): 0}).tolist() == [factor, factor]


def test_zeros_of_both_signs_do_too(fast_backend: str) -> None:
    step = dm.capture(lambda x, zero: x / zero)
    for zero, infinite in ((0.0, np.inf), (-0.0, -np.inf)):
        for _ in range(3):
            assert step(dm.ones(1), zero).item() == infinite


def test_parameters_that_are_moved_after_the_capture(fast_backend: str) -> None:
    """An optimizer that is made later lays them in its arena: a replay must read them there."""
    layer = nn.Linear(4, 4)
    step = dm.capture(lambda x: layer(x).detach())
    for _ in range(3):
        step(dm.ones(1, 4))
    optim.SGD(layer.parameters(), 0.1)
    with dm.no_grad():
        for parameter in layer.parameters():
            parameter.zero_()
    for _ in range(4):
        np.testing.assert_array_equal(step(dm.ones(1, 4)).numpy(), 0)
    assert len(step.programs) == 1
    layer.to("float16")
    assert all(step(dm.ones(1, 4, dtype="float16")).dtype is dm.float16 for _ in range(4))


def test_what_lives_on_the_device_may_change(backend: str) -> None:
    """A loss scale that falls and rises, with steps that are skipped, and an offset into data that goes on."""
    found = []
    for captured in (False, True):
        dm.manual_seed(1)
        layer, scaler = dm.nn.Linear(6, 4), dm.amp.LossScaler("float16", backend, start=2.0**18, growth_steps=3)
        optimizer = dm.optim.AdamW(layer.parameters(), 1e-2)
        data, offset = dm.tensor(np.random.default_rng(0).standard_normal((40, 6)).astype(np.float32)), dm.zeros(
            2, dtype=dm.int32)

        def step(factor: dm.Tensor, data: dm.Tensor = data, offset: dm.Tensor = offset, layer: Any = layer,
                 scaler: Any = scaler, optimizer: Any = optimizer) -> Any:
            optimizer.zero_grad()
            with dm.amp.autocast("float16"):
                loss = (layer(data.index_select(0, offset)).float() * factor).square().mean()
            loss.backward(scaler.seed())
            scale, norm = scaler.factor(dm.optim.grad_norm(layer.parameters()), 1.0)
            optimizer.step(scale)
            offset.add_(3)
            return loss, norm, scale
        taken = dm.capture(step) if captured else step
        found.append([[t.item() for t in taken(dm.full((), 1e3 if i == 5 else 1.0))] + [scaler.state_dict()["scale"]]
                      for i in range(12)])
    np.testing.assert_array_equal(*found)
    scales = [row[3] for row in found[0]]
    assert {2.0**17, 2.0**18} <= set(scales)
    assert 0.0 in [row[2] for row in found[0]]
    assert len({row[0] for row in found[0]}) == 12
