"""Fusion against random little steps: captured fused, captured unfused and eager must give the same bits.

A step is a list of moves drawn by a seed, so that a seed that fails is the whole report. Values are used again later,
state is changed in place between two uses of it, launches are repeated, and some results are returned.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import dualml as dm
from dualml import nn, optim, runtime
from tests.parity.modes import PRESENT

F = nn.functional
SHAPES = ((1, 1), (1, 8), (3, 5), (64, 8), (64, 12))
Move = Callable[["State"], None]


class State:
    """What a step works on: its values so far, tensors that outlive it, and weights that an optimizer holds."""

    def __init__(self, shape: tuple[int, int], rng: np.random.Generator, dtype: str) -> None:
        def normal(*sizes: int) -> dm.Tensor:
            return dm.tensor(rng.standard_normal(sizes).astype(np.float32)).to(dtype)
        self.width = shape[1]
        self.kept = [normal(*shape) for _ in range(2)]
        self.weights = [nn.Parameter(normal(shape[1], shape[1])), nn.Parameter(normal(shape[1])),
                        nn.Parameter(normal(shape[1]))]
        self.optimizer = optim.SGD(self.weights, 0.05, momentum=0.9)
        self.values: list[dm.Tensor] = []

    def norm(self, x: dm.Tensor, kind: int) -> dm.Tensor:
        if kind == 0:
            return F.rms_norm(x, (self.width,), self.weights[1])
        return F.layer_norm(x, (self.width,), *self.weights[1:3] if kind == 1 else ())


UNARY: list[Callable[[dm.Tensor], dm.Tensor]] = [
    dm.Tensor.tanh, dm.Tensor.sigmoid, dm.Tensor.relu, dm.Tensor.abs,
    lambda x: x * 0.5, lambda x: x + 1, lambda x: 1 - x, lambda x: x.clamp(-1, 0.5), lambda x: x.clone(),
    lambda x: x.reshape(-1).reshape(*x.shape), lambda x: x.sum(0, keepdim=True) + x * 0, lambda x: x.softmax(-1),
    lambda x: x.mean(1, keepdim=True) - x, lambda x: x * x[:1], lambda x: (x > 0).to(x.dtype) * x,
    lambda x: x + dm.zeros(*x.shape, dtype=x.dtype), lambda x: F.dropout(x, 0.3, training=True)]
# No (x + y) - x: the drivers of WebGPU may make that y, in one kernel as they could not in two
BINARY: list[Callable[[dm.Tensor, dm.Tensor], dm.Tensor]] = [
    lambda x, y: x + y, lambda x, y: x - y.tanh(), lambda x, y: x * y.tanh(), lambda x, y: x.maximum(y),
    lambda x, y: dm.where(x > y, x, y * 0.5), lambda x, y: x + y[:1], lambda x, y: F.dropout(x, 0.5, training=True) + y,
    lambda x, y: dm.cat([x, y])[1:x.shape[0] + 1]]
PLACE: list[Callable[[dm.Tensor, dm.Tensor], Any]] = [
    lambda kept, x: kept.mul_(0.9).add_(x * 0.1), lambda kept, x: kept.copy_(x), lambda kept, x: kept.zero_(),
    lambda kept, x: kept.add_(x).mul_(0.5), lambda kept, x: kept.copy_((kept * 0.5 + x).tanh())]


def draw_move(rng: np.random.Generator, training: bool, half: bool) -> Move:
    """One thing that a step may do. Where it trains, state is changed by the optimizer alone."""
    kind, which, one, two = (int(n) for n in rng.integers(0, 1000, 4))

    def value(state: State, number: int) -> dm.Tensor:
        among = state.values if training else [*state.values, *state.kept]
        return among[number % len(among)]

    def move(state: State) -> None:
        x, y = value(state, one), value(state, two)
        if kind < 350:
            made = UNARY[which % len(UNARY)](x)
        elif kind < 650:
            made = BINARY[which % len(BINARY)](x, y)
        elif kind < 750 and not half:
            made = state.norm([x, x + y, F.dropout(x, 0.4, training=True), x + x][which % 4], which // 4 % 3)
        elif kind < 830 and not half:
            made = (x @ state.weights[0]).tanh()
        elif kind < 930 and not training:
            PLACE[which % len(PLACE)](state.kept[one % 2], y)
            return
        elif kind < 960 and not training:  # a temporary that is changed between two uses
            made = dm.zeros(*x.shape, dtype=x.dtype) if which % 2 else x * 2
            state.values.append(made * 1)
            made.add_(y)
        elif kind < 980 and not training:  # neighbours in one arena
            state.weights[1].copy_(state.weights[2] * 0.5 + x[0] * 0.1)
            return
        else:
            made = UNARY[which % len(UNARY)](x)
            state.values.append(UNARY[which % len(UNARY)](x))
        state.values.append(made)
    return move


def make_step(seed: int, dtype: str = "float32") -> tuple[Callable[..., Any], State, list[np.ndarray]]:
    """A step with the state it works on, and the inputs of its calls."""
    rng = np.random.default_rng(seed)
    shape, training = SHAPES[rng.integers(len(SHAPES))], bool(seed % 2) and dtype == "float32"
    moves = [draw_move(rng, training, dtype != "float32") for _ in range(rng.integers(3, 14))]
    wanted = rng.integers(0, 1000, 3)
    state = State(shape, rng, dtype)

    def step(x: dm.Tensor) -> list[dm.Tensor]:
        state.values = [x.to(dtype), x.to(dtype) * 1]
        with dm.no_grad() if not training else dm.enable_grad():
            for move in moves:
                move(state)
        if training:
            state.optimizer.zero_grad()
            (sum(v.sum() for v in state.values[-3:]) + (state.weights[0] * state.weights[1]).sum()).backward()
            optim.clip_grad_norm_(state.weights, 1.0)
            state.optimizer.step()
            with dm.no_grad():
                state.kept[0].mul_(0.9).add_(state.weights[1])
        found = [state.values[n % len(state.values)].detach() for n in wanted]
        state.values = []
        return found
    return step, state, [rng.standard_normal(shape).astype(np.float32) for _ in range(4)]


def outcome(seed: int, way: str, dtype: str) -> list[bytes]:
    """The bits of all that a step returned in four calls, and of what it left behind."""
    step, state, inputs = make_step(seed, dtype)
    dm.manual_seed(seed)
    call = step if way == "eager" else dm.capture(step, fusion=way == "fused")
    found = [value.numpy().tobytes() for x in inputs for value in call(dm.tensor(x))]
    return found + [t.detach().numpy().tobytes() for t in (*state.kept, *state.weights)]


def check(seed: int, dtype: str = "float32") -> None:
    eager, plain, fused = (outcome(seed, way, dtype) for way in ("eager", "plain", "fused"))
    assert plain == eager, f"seed {seed}: a replay differs from a call"
    assert fused == plain, f"seed {seed}: fusion changes the result"


@pytest.mark.parametrize("first", range(0, 100, 10))
def test_random_steps(cpu: None, first: int) -> None:
    for seed in range(first, first + 10):
        check(seed)


@pytest.mark.parametrize("seed", [0, 4, 6, 10, 13, 21, 22, 28, 55])
def test_random_steps_on_webgpu(seed: int) -> None:
    """Where the software driver is exact. A launch that reads and writes one buffer is refused here."""
    if "webgpu" not in PRESENT or not runtime.get("webgpu").device.software:
        pytest.skip("no software driver of WebGPU")
    with dm.use_backend("webgpu"):
        check(seed)


def test_random_steps_in_half_precision(cpu: None) -> None:
    for seed in range(20):
        check(seed, "float16")
