"""Mixed precision's casts of weights and gradients share launches, and leave the same bits."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest

import dualml as dm
from dualml import amp, nn, optim
from dualml.models import GPT, GPTConfig
from tests.test_fusion import check, normal

F = nn.functional


def _casts(program: Any) -> int:
    return Counter(item.name for item in program.items)["cast_forward"]


class _Model:
    """Linear layers, whose parameters lie in an optimizer's memory."""

    def __init__(self, width: int, layers: int = 3) -> None:
        dm.manual_seed(1)
        self.layers = [nn.Linear(width, width) for _ in range(layers)]
        self.optimizer = optim.AdamW([p for layer in self.layers for p in layer.parameters()], lr=0.01)

    def step(self, x: dm.Tensor, between: Any = None) -> Any:
        with amp.autocast("float16"):
            for layer in self.layers:
                x = layer(x).tanh()
                if between is not None:
                    between(layer)
        loss = (x.float() * x.float()).mean()
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss, *[layer.weight.detach() * 1 for layer in self.layers]


def _runs(make: Any, x: np.ndarray, fusion: bool) -> tuple[list[bytes], Any]:
    step = dm.capture(make(), fusion=fusion)
    found = [[t.numpy().tobytes() for t in step(dm.tensor(x * (k + 1)))] for k in range(5)]
    return [b for row in found for b in row], step.programs[0]


@pytest.mark.parametrize("width", [128, 36])
def test_a_run_is_the_same(backend: str, width: int) -> None:
    """Also where the memory's layout would put some of the 16-bit forms at places that are not aligned."""
    x = normal(4, width)
    (one, fused), (two, plain) = (_runs(lambda: _Model(width).step, x, way) for way in (True, False))
    assert one == two
    aligned = fused.backend.alignment
    assert not [item for item in fused.items for p in item.places if p.nbytes and p.offset % aligned]
    if width == 128:
        assert _casts(fused) <= _casts(plain) - 8, fused.explain()
        assert "casts (" in fused.explain()


def test_weights_that_change_between(fast_backend: str) -> None:
    """A cast may not run ahead of what writes to the weight."""
    def make() -> Any:
        model = _Model(128)

        def halve(layer: nn.Linear) -> None:
            with dm.no_grad():
                model.layers[-1].weight.mul_(0.5)
        return lambda x: model.step(x, halve)
    x = normal(4, 128)
    (one, _), (two, _) = (_runs(make, x, way) for way in (True, False))
    assert one == two


def test_gradients_that_are_read_early(fast_backend: str) -> None:
    """A gradient that something reads before the others are there."""
    def make() -> Any:
        model = _Model(128, layers=2)

        def step(x: dm.Tensor) -> Any:
            with amp.autocast("float16"):
                loss = (model.layers[0](x) * 1).float().square().mean()
            loss.backward()
            first = model.layers[0].weight.grad
            assert first is not None
            seen = first * 2
            with amp.autocast("float16"):
                (model.layers[1](x) * 1).float().square().mean().backward()
            model.optimizer.step()
            model.optimizer.zero_grad()
            return loss, seen, model.layers[1].weight.detach() * 1
        return step
    x = normal(4, 128)
    (one, _), (two, _) = (_runs(make, x, way) for way in (True, False))
    assert one == two


def test_a_model(fast_backend: str) -> None:
    model = GPT(GPTConfig(vocab_size=128, context=8, layers=2, heads=2, width=128))
    optimizer = optim.AdamW(model.parameters(), lr=0.01)

    def step(tokens: dm.Tensor) -> Any:
        with amp.autocast("float16"):
            loss = model(tokens, tokens)[1]
        loss.backward()
        optimizer.step(dm.zeros(1))  # weights stay, so that both ways begin with the same
        optimizer.zero_grad()
        return loss
    program = check(step, np.arange(16, dtype=np.int32).reshape(2, 8) * 7)
    assert sum("casts" in line for line in program.explain().splitlines()) >= 2, program.explain()
