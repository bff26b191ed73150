"""Arguments of captured steps: each call's own, however they were passed when the step was recorded."""

from __future__ import annotations

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
