"""A captured step does what the step does, bit for bit, or says why it cannot."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

import dualml as dm
from dualml import nn, optim, runtime
from dualml.errors import CaptureError, DTypeError
from dualml.models import GPT, GPTConfig
from dualml.programs.plan import Temporary, pack
from tests.parity.modes import PRESENT

F = nn.functional
STEPS = 50


class Training:
    """A small GPT with dropout, clipping and a schedule; smaller still on a device that is slow."""

    def __init__(self, captured: bool) -> None:
        dm.manual_seed(3)
        self.rows, layers = (1, 1) if dm.get_backend() == "cuda_on_cpu" else (3, 2)
        self.model = GPT(GPTConfig(vocab_size=31, context=16, layers=layers, heads=2, width=16, dropout=0.2))
        self.optimizer = optim.AdamW(self.model.parameters(), 1e-2)
        self.schedule = optim.LRScheduler(self.optimizer, lambda step: 1e-2 / (1 + step))
        self.step: Any = dm.capture(self._step) if captured else self._step

    def _step(self, tokens: dm.Tensor, targets: dm.Tensor) -> tuple[dm.Tensor, dm.Tensor]:
        loss = self.model(tokens, targets)[1]
        self.optimizer.zero_grad()
        loss.backward()
        norm = optim.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.schedule.step()
        return loss, norm

    def run(self, steps: int) -> tuple[list[Any], list[np.ndarray]]:
        rng = np.random.default_rng(4)
        seen = []
        for _ in range(steps):
            tokens, targets = (dm.tensor(rng.integers(0, 31, (self.rows, 16)).astype(np.int32)) for _ in range(2))
            seen.append(self.step(tokens, targets))
        weights = [p.detach().numpy() for p in self.model.parameters()]
        return [(loss.item(), norm.item()) for loss, norm in seen], weights + [p.grad.numpy()
                                                                               for p in self.model.parameters()]


def test_a_training_run_is_the_same_bit_for_bit(backend: str) -> None:
    losses, weights = Training(captured=False).run(STEPS)
    training = Training(captured=True)
    found, moved = training.run(STEPS)
    assert found == losses
    for one, other in zip(moved, weights, strict=True):
        np.testing.assert_array_equal(one, other)
    (program,) = training.step.programs
    assert program.arena_bytes < 0.7 * program.temporary_bytes
    assert dm.random.default_generator().position > 0


# ---- arguments and results ------------------------------------------------------------------------------------------

def test_shapes_and_plain_values_have_their_own_programs(fast_backend: str) -> None:
    @dm.capture
    def scaled(x: dm.Tensor, factor: float = 1.0, more: dict[str, Any] | None = None) -> dict[str, Any]:
        return {"y": x * factor, "both": [x + 1, (more or {"z": x})["z"]], "name": "same"}

    for _ in range(4):
        for size, factor in ((3, 2.0), (5, 2.0), (3, 4.0)):
            x = np.arange(size, dtype=np.float32)
            got = scaled(x, factor, more={"z": dm.tensor(x) * 3})
            np.testing.assert_array_equal(got["y"].numpy(), x * factor)
            np.testing.assert_array_equal(got["both"][0].numpy(), x + 1)
            np.testing.assert_array_equal(got["both"][1].numpy(), x * 3)
            assert got["name"] == "same"
    assert len(scaled.programs) == 3


def test_results_are_the_callers_own(fast_backend: str) -> None:
    double = dm.capture(lambda x: x * 2)
    kept = [double(dm.full((4,), float(i))) for i in range(6)]
    assert [k.numpy()[0] for k in kept] == [0, 2, 4, 6, 8, 10]
    given = dm.full((4,), 7.0)
    double(given)
    assert given.tolist() == [7.0] * 4  # and so are arguments


def test_arrays_are_checked_at_replays_too(fast_backend: str) -> None:
    double = dm.capture(lambda x: x * 2)
    for i in range(4):
        assert double(np.array([i], np.int64)).tolist() == [2 * i]
    with pytest.raises(DTypeError, match="integers must fit int32"):
        double(np.array([2**40]))


def test_random_numbers_go_on_as_in_calls(fast_backend: str) -> None:
    def noisy(x: dm.Tensor) -> dm.Tensor:
        return F.dropout(x, 0.5) + dm.rand(64) + dm.randn(64)

    x = dm.ones(64)
    dm.manual_seed(5)
    eager = [noisy(x).numpy() for _ in range(6)]
    after = dm.random.get_state()
    dm.manual_seed(5)
    captured = dm.capture(noisy)
    for want in eager:
        np.testing.assert_array_equal(captured(x).numpy(), want)
    assert dm.random.get_state() == after


def test_a_checkpointed_part(backend: str) -> None:
    """Recomputation in the backward pass, with dropout inside, is part of what replays."""
    layer = nn.Sequential(nn.Linear(8, 8), nn.GELU(), nn.Dropout(0.3))

    def step(x: dm.Tensor) -> dm.Tensor:
        optimizer.zero_grad()
        loss = dm.checkpoint(layer, x.requires_grad_()).square().sum()
        loss.backward()
        optimizer.step()
        return loss

    results = []
    start = {n: dm.tensor(p.numpy()) for n, p in layer.state_dict().items()}
    for wrap in (lambda f: f, dm.capture):
        dm.manual_seed(9)
        layer.load_state_dict(start)
        optimizer = optim.SGD(layer.parameters(), 0.1, momentum=0.9)
        taken = wrap(step)
        results.append([taken(dm.full((2, 8), 0.1 * i)).item() for i in range(6)])
    assert results[0] == results[1]


def test_what_a_step_leaves_behind_is_kept_up_to_date(fast_backend: str) -> None:
    seen: dict[str, dm.Tensor] = {}

    @dm.capture
    def step(x: dm.Tensor) -> None:
        seen["last"] = x * 10
    for i in range(5):
        step(dm.full((3,), float(i)))
        assert seen["last"].tolist() == [10.0 * i] * 3


def test_a_first_call_that_makes_things_is_forgiven(fast_backend: str) -> None:
    table: list[dm.Tensor] = []

    @dm.capture
    def step(x: dm.Tensor) -> dm.Tensor:
        if not table:
            table.append(dm.arange(4).float() * 2)
        return x + table[0]
    for i in range(5):
        assert step(dm.full((4,), float(i))).tolist() == [i + 0.0, i + 2.0, i + 4.0, i + 6.0]
    assert len(step.programs) == 1


# ---- what cannot be captured ----------------------------------------------------------------------------------------

count = [0]
weight: list[Any] = [None]


def _counted(x: dm.Tensor) -> dm.Tensor:
    count[0] += 1
    return x * float(count[0])


def _grown(x: dm.Tensor) -> dm.Tensor:
    count[0] += 1
    return x + 1 if count[0] % 2 else (x + 1) * 2


def _replaced(x: dm.Tensor) -> dm.Tensor:
    weight[0] = x if weight[0] is None else weight[0] + x
    return weight[0]


def _two_backends(x: dm.Tensor) -> Any:
    with dm.use_backend("cpu" if x.backend != "cpu" else "webgpu"):
        return dm.ones(3) * 2


def _stepped_twice(x: dm.Tensor) -> None:
    if weight[0] is None:
        parameter = nn.Parameter(dm.ones(3))
        weight[0] = parameter, optim.AdamW([parameter], 0.1)
    parameter, optimizer = weight[0]
    for _ in range(2):
        optimizer.zero_grad()
        (parameter * x).sum().backward()
        optimizer.step()


WRONG: dict[str, tuple[Callable[[dm.Tensor], Any], str]] = {
    "item": (lambda x: x * x.sum().item(), r"reads a value from the device \(test_capture.py:\d+\): item\(\), numpy.*, "
             r"after launch 0, sum_\w+\. A replay"),
    "if": (lambda x: x if (x > 0).all() else -x, "reads a value from the device"),
    "to": (lambda x: x.to("cpu" if x.backend != "cpu" else "webgpu"), "reads a value from the device"),
    "a number that changes": (_counted, r"launch 0, mul_forward \(test_capture.py:\d+\): b was 2.0, then 3.0"),
    "a launch more": (_grown, "launches"),
    "a tensor that is replaced": (_replaced, "used another tensor from outside|launches"),
    "an argument changed in place": (lambda x: x.add_(1.0), r"changes its argument 0 in place \(\w+, test_capture"),
    "a constant changed in place": (lambda x: dm.tensor([1.0, 2.0, 3.0]).add_(x), "makes from host values"),
    "two backends": (_two_backends, "Capture what runs on one backend"),
    "two steps of an optimizer": (_stepped_twice, "sets one device value twice"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be_captured(name: str, fast_backend: str) -> None:
    count[0], weight[0] = 0, None
    wrong, message = WRONG[name]
    captured = dm.capture(wrong)
    with pytest.raises(CaptureError, match=message):
        for i in range(4):
            captured(dm.full((3,), float(i + 1)))
    assert runtime.recorder() is None
    assert (dm.ones(2) + 1).tolist() == [2.0, 2.0]


def test_host_values_that_change_are_refused(fast_backend: str) -> None:
    rng = np.random.default_rng(1)
    captured = dm.capture(lambda x: x + dm.tensor(rng.standard_normal(3).tolist()))
    with pytest.raises(CaptureError, match="used other values from the host"):
        for _ in range(4):
            captured(dm.ones(3))
    steady = dm.capture(lambda x: x + dm.tensor([1.0, 2.0, 3.0]))
    for i in range(4):
        assert steady(dm.full((3,), float(i))).tolist() == [i + 1.0, i + 2.0, i + 3.0]


def test_writes_to_a_tensor_from_outside_are_refused(fast_backend: str) -> None:
    outside = dm.zeros(3)

    def step(x: dm.Tensor) -> dm.Tensor:
        outside._array.write(np.ones(3, np.float32))
        return x + outside
    with pytest.raises(CaptureError, match="writes host values to a tensor from outside"):
        dm.capture(step)(dm.ones(3))


# ---- the program ----------------------------------------------------------------------------------------------------

def test_a_program_can_be_read(cpu: None) -> None:
    training = Training(captured=True)
    training.run(3)
    (program,) = training.step.programs
    lines = str(program).splitlines()
    assert lines[0].startswith(f"_step on cpu: {program.launches} launches, temporaries of ")
    assert lines[0].endswith(f"{program.moved_bytes / 2**20:.1f} MiB moved, {program.flops / 1e9:.2f} GFLOP")
    assert len(lines) == program.launches + 2
    assert any("layer_norm_forward" in line and "[48,16]" in line and "test_capture.py" in line for line in lines)


def test_a_program_counts_what_it_costs(fast_backend: str) -> None:
    """Bytes and operations that a hand can count, and bytes by what buffers are."""
    w = nn.Parameter(dm.ones(32, 16))
    total, optimizer = dm.zeros(8, 16), optim.SGD([w], 0.1)

    def step(x: dm.Tensor) -> dm.Tensor:
        optimizer.zero_grad()
        y = F.dropout(x @ w, 0.5, training=True)
        y.sum().backward()
        optimizer.step()
        return total.add_(y.detach())
    captured = dm.capture(lambda x: x @ w.detach())
    for _ in range(2):
        captured(dm.ones(8, 32))
    (program,) = captured.programs
    assert program.flops == 2 * 8 * 32 * 16
    assert program.moved_bytes == 4 * (8 * 32 + 32 * 16 + 8 * 16)
    assert program.classes().keys() == {"input", "weight", "output"}
    trained = dm.capture(step)
    for _ in range(2):
        trained(dm.ones(8, 32))
    (program,) = trained.programs
    assert program.flops == 2 * 2 * 8 * 32 * 16
    classes = program.classes()
    assert classes.keys() >= {"input", "state", "setting", "random", "temporary"}
    assert classes["input"] == 4 * 8 * 32
    assert classes["temporary"] == program.arena_bytes


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 5000), st.integers(0, 20), st.integers(0, 6)), min_size=1, max_size=40),
       st.randoms(use_true_random=False))
def test_temporaries_never_overlap_nor_mix(shapes: list[tuple[int, int, int]], random: Any) -> None:
    """No two that are alive at once share bytes, and no launch reads from a buffer that it writes to."""
    temporaries = []
    for number, (nbytes, first, length) in enumerate(shapes):
        modes = {first: "write"} | {i: random.choice(["read", "write"]) for i in range(first + 1, first + length + 1)}
        temporaries.append(Temporary(number, nbytes, first, first + length, modes))
    slabs = pack(temporaries, 256, 16384)
    assert sorted(t.number for slab in slabs for _, t in slab.tenants) == list(range(len(shapes)))
    for slab in slabs:
        for index, (start, one) in enumerate(slab.tenants):
            assert start % 256 == 0
            assert start + one.nbytes <= max(slab.size, one.nbytes)
            for other_start, other in slab.tenants[index + 1:]:
                apart = start + one.nbytes <= other_start or other_start + other.nbytes <= start
                assert apart or one.last < other.first or other.last < one.first
                assert all(one.modes[i] == other.modes[i] for i in one.modes.keys() & other.modes.keys())


def test_replays_do_not_grow(fast_backend: str) -> None:
    training = Training(captured=True)
    training.run(4)
    before = runtime.get(fast_backend).memory()["in_use"]
    training.run(200)
    assert runtime.get(fast_backend).memory()["in_use"] <= before + 4096


assert "cpu" in PRESENT


def test_modes_have_their_own_programs(fast_backend: str) -> None:
    """A module's mode, a policy and what an optimizer works by are asked again before every replay."""
    layer = nn.Dropout(0.5)
    step = dm.capture(lambda x: layer(x) * 2)
    x = dm.ones(8, 8)
    for _ in range(3):
        step(x)
    layer.eval()
    for _ in range(3):
        assert (step(x).numpy() == 2).all()
    layer.train()
    assert (step(x).numpy() == 0).any()
    assert len(step.programs) == 2


def test_momentum_that_is_raised_is_noticed(fast_backend: str) -> None:
    weights = []
    for captured in (True, False):
        weight = nn.Parameter(dm.ones(4, 4))
        optimizer = optim.SGD([weight], 0.1)

        def step(weight: nn.Parameter = weight, optimizer: optim.SGD = optimizer) -> None:
            optimizer.zero_grad()
            weight.square().sum().backward()
            optimizer.step()
        run = dm.capture(step) if captured else step
        for number in range(9):
            if number == 4:
                optimizer.param_groups[0]["momentum"] = 0.9
            run()
        weights.append(weight.detach().numpy())
    np.testing.assert_array_equal(*weights)


def test_a_policy_outside_the_step_is_noticed(fast_backend: str) -> None:
    x, w = dm.randn(8, 8), dm.randn(8, 8)
    step = dm.capture(lambda x: x @ w)
    for _ in range(3):
        whole = step(x)
        with dm.amp.autocast("float16"):
            half = step(x)
    assert (whole.dtype, half.dtype) == (dm.float32, dm.float16)
    assert len(step.programs) == 2


def test_a_mode_changed_within_a_step_is_refused(cpu: None) -> None:
    layer = nn.Dropout(0.5)

    def step(x: dm.Tensor) -> dm.Tensor:
        first = layer.train()(x)
        return first + layer.eval()(x)
    with pytest.raises(CaptureError, match="changes a setting that it works by"):
        dm.capture(step)(dm.ones(3))
