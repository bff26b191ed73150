"""What people do with a captured step: all is the same, bit for bit, as without dm.capture."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import dualml as dm
from dualml import nn, optim

F = nn.functional
Wrap = Callable[[Callable[..., Any]], Any]
Result = namedtuple("Result", "loss more")


def rows(count: int, size: int = 5) -> list[dm.Tensor]:
    rng = np.random.default_rng(1)
    return [dm.tensor(rng.standard_normal((size, 4)).astype(np.float32)) for _ in range(count)]


class Net:
    """A model with an optimizer and what is done with them."""

    def __init__(self, seed: int = 0, inputs: int = 4, outputs: int = 3) -> None:
        dm.manual_seed(seed)
        self.model = nn.Sequential(nn.Linear(inputs, 8), nn.GELU(), nn.Dropout(0.2), nn.Linear(8, outputs))
        self.optimizer = optim.AdamW(self.model.parameters(), 0.1)

    def loss(self, x: dm.Tensor) -> dm.Tensor:
        return self.model(x).square().mean()

    def gradients(self, x: dm.Tensor) -> dm.Tensor:
        loss = self.loss(x)
        loss.backward()
        return loss

    def train(self, x: dm.Tensor) -> dm.Tensor:
        self.optimizer.zero_grad()
        loss = self.gradients(x)
        self.optimizer.step()
        return loss

    def look(self) -> list[Any]:
        """Weights and gradients, as anyone finds them."""
        found = [p.detach().numpy() for p in self.model.parameters()]
        return found + [None if p.grad is None else p.grad.numpy() for p in self.model.parameters()]


def micro_batches_in_one_step(wrap: Wrap) -> list[Any]:
    net = Net()

    def work(xs: dm.Tensor) -> dm.Tensor:
        net.optimizer.zero_grad()
        total = dm.zeros(())
        for index in range(3):
            loss = net.loss(xs[index]) / 3
            loss.backward()
            total = total + loss.detach()
        net.optimizer.step()
        return total
    step = wrap(work)
    xs = np.stack([x.numpy() for x in rows(3)])
    return [step(dm.tensor(xs + np.float32(i))) for i in range(5)] + net.look()


def two_models_that_compete(wrap: Wrap) -> list[Any]:
    """One step trains a discriminator, then the generator against it."""
    one, two = Net(1), Net(2, inputs=3, outputs=1)

    def work(noise: dm.Tensor, real: dm.Tensor) -> dict[str, dm.Tensor]:
        two.optimizer.zero_grad()
        fake = one.model(noise)
        judged = F.softplus(-two.model(real)).mean() + F.softplus(two.model(fake.detach())).mean()
        judged.backward()
        two.optimizer.step()
        one.optimizer.zero_grad()
        fooled = F.softplus(-two.model(fake)).mean()
        fooled.backward()
        one.optimizer.step()
        return {"judged": judged, "fooled": fooled}
    step = wrap(work)
    return [step(x, x[:, :3]) for x in rows(5)] + one.look() + two.look()


def a_result_of_many_parts(wrap: Wrap) -> list[Any]:
    net = Net()

    def work(x: dm.Tensor) -> Result:
        out = net.model(x).detach()
        return Result(out.mean(), {"largest": out.max(), "count": 3, "list": [out, (out + 1, None)]})
    step, found = wrap(work), []
    for x in rows(5):
        result = step(x)
        assert isinstance(result, Result)
        found += [result.loss, result.more["largest"], result.more["count"], *result.more["list"][1]]
    return found


def a_captured_function_in_a_captured_step(wrap: Wrap) -> list[Any]:
    net = Net()
    loss_of = wrap(net.loss)
    found = [loss_of(x).detach() for x in rows(3)]  # it has a program of its own by then

    def work(x: dm.Tensor) -> dm.Tensor:
        net.optimizer.zero_grad()
        loss: dm.Tensor = loss_of(x)
        loss.backward()
        net.optimizer.step()
        return loss
    step = wrap(work)
    return found + [step(x) for x in rows(5)] + [loss_of(x).detach() for x in rows(3)] + net.look()


def training_and_validation_in_turn(wrap: Wrap) -> list[Any]:
    net, found = Net(), []
    train, validate = wrap(net.train), wrap(net.loss)
    for _ in range(4):
        net.model.train()
        found += [train(x) for x in rows(2)]
        net.model.eval()
        with dm.no_grad():
            found += [validate(x) for x in rows(2)]
    return found + net.look()


def one_function_for_both_modes(wrap: Wrap) -> list[Any]:
    net, found = Net(), []
    step = wrap(lambda x: net.model(x).detach())
    for number, x in enumerate(rows(12)):
        net.model.train(number % 4 < 2)
        found.append(step(x))
    return found


def inference(wrap: Wrap) -> list[Any]:
    net, found = Net(), []
    step = wrap(lambda x: net.model.eval()(x).softmax(-1))
    for x in rows(5):
        with dm.no_grad():
            found.append(step(x))
        assert not found[-1].requires_grad
    return found


def a_last_batch_that_is_smaller(wrap: Wrap) -> list[Any]:
    net = Net()
    step = wrap(net.train)
    return [step(x) for _ in range(3) for x in (*rows(2), *rows(1, size=2))] + net.look()


def settings_of_the_optimizer(wrap: Wrap) -> list[Any]:
    net, found = Net(), []
    step, group = wrap(net.train), net.optimizer.param_groups[0]
    for number, x in enumerate(rows(9)):
        group.update(lr=0.1 / (number + 1), weight_decay=0.01 * number, betas=(0.8, 0.9) if number > 5 else (0.9, 0.95))
        found.append(step(x))
    return found + net.look()


def going_back_to_a_saved_state(wrap: Wrap) -> list[Any]:
    net, found, kept = Net(), [], {}
    step = wrap(net.train)
    for _ in range(2):
        for number, x in enumerate(rows(7)):
            if number == 4 and not kept:
                kept = {"model": net.model.state_dict(), "optimizer": net.optimizer.state_dict()}
                kept = _apart(kept)
            found.append(step(x))
        net.model.load_state_dict(kept["model"])
        net.optimizer.load_state_dict(kept["optimizer"])
    return found + net.look()


def _apart(value: Any) -> Any:
    """A copy that a later step does not change."""
    if isinstance(value, dm.Tensor):
        return dm.tensor(value.numpy())
    if isinstance(value, dict):
        return {key: _apart(v) for key, v in value.items()}
    return [_apart(v) for v in value] if isinstance(value, list) else value


def an_average_of_the_weights(wrap: Wrap) -> list[Any]:
    net, average = Net(), Net(7)

    def work() -> None:
        with dm.no_grad():
            for mean, weight in zip(average.model.parameters(), net.model.parameters(), strict=True):
                mean.mul_(0.9).add_(weight * 0.1)
    step = wrap(work)
    for x in rows(5):
        net.train(x)
        step()
    return average.look()


# ---- gradients that come and go outside the step -------------------------------------------------------------------

def gradients_forgotten_outside(wrap: Wrap) -> list[Any]:
    """The captured part makes gradients; zero_grad and the optimizer stay outside."""
    net, found = Net(), []
    step = wrap(net.gradients)
    for x in rows(7):
        net.optimizer.zero_grad()
        found += [step(x), *net.look()]
        net.optimizer.step()
    return found + net.look()


def gradients_added_up_over_calls(wrap: Wrap) -> list[Any]:
    """Of two calls the first finds none, the second adds to them."""
    net, found = Net(), []
    step = wrap(net.gradients)
    for number, x in enumerate(rows(14)):
        found += [step(x), *net.look()]
        if number % 2:
            net.optimizer.step()
            net.optimizer.zero_grad()
    return found + net.look()


def gradients_without_an_optimizer(wrap: Wrap) -> list[Any]:
    dm.manual_seed(0)
    weight, found = nn.Parameter(dm.ones(4, 3)), []

    def work(x: dm.Tensor) -> None:
        (x @ weight).square().sum().backward()
    step = wrap(work)
    for x in rows(5):
        weight.grad = None
        step(x)
        found.append(weight.grad.numpy())
    return found


def gradients_forgotten_most_times(wrap: Wrap) -> list[Any]:
    """Where one is left from the call before, the next adds to it."""
    dm.manual_seed(0)
    weight, found = nn.Parameter(dm.ones(4, 3)), []
    step = wrap(lambda x: (x @ weight).square().sum().backward())
    for number, x in enumerate(rows(9)):
        if number not in (6, 8):
            weight.grad = None
        step(x)
        found.append(weight.grad.numpy())
    return found


def gradients_set_to_none_after_the_step(wrap: Wrap) -> list[Any]:
    net, found = Net(), []
    step = wrap(net.train)
    for x in rows(6):
        found += [step(x), *net.look()]
        held = [p.grad for p in net.model.parameters()]
        net.model.zero_grad()
        found += [*net.look(), *held]
    return found


def a_gradient_that_is_there_already(wrap: Wrap) -> list[Any]:
    """The step counts on finding none, as it forgets them at its end."""
    net, found = Net(), []

    def work(x: dm.Tensor) -> dm.Tensor:
        loss = net.gradients(x)
        net.optimizer.step()
        net.optimizer.zero_grad()
        return loss
    step = wrap(work)
    for number, x in enumerate(rows(8)):
        if number == 5:
            net.gradients(x)
        found += [step(x), *net.look()]
    return found


def a_layer_that_is_frozen_for_a_while(wrap: Wrap) -> list[Any]:
    net, found = Net(), []
    step = wrap(net.train)
    for number, x in enumerate(rows(14)):
        net.model[0].weight.requires_grad_(not 4 <= number < 9)
        found += [step(x), *net.look()]
    return found


def a_layer_that_misses_a_step(wrap: Wrap) -> list[Any]:
    """From then on it has another count of steps than its neighbours in the optimizer's memory."""
    net, found = Net(), []
    step = wrap(net.optimizer.step)
    for number, x in enumerate(rows(9)):
        net.optimizer.zero_grad()
        (net.model[0](x).sum() if number == 5 else net.loss(x)).backward()
        step()
        found += net.look()
    return found


USES = [micro_batches_in_one_step, two_models_that_compete, a_result_of_many_parts,
        a_captured_function_in_a_captured_step, training_and_validation_in_turn, one_function_for_both_modes, inference,
        a_last_batch_that_is_smaller, settings_of_the_optimizer, going_back_to_a_saved_state, an_average_of_the_weights,
        gradients_forgotten_outside, gradients_added_up_over_calls, gradients_without_an_optimizer,
        gradients_forgotten_most_times, gradients_set_to_none_after_the_step, a_gradient_that_is_there_already,
        a_layer_that_is_frozen_for_a_while, a_layer_that_misses_a_step]


def _bytes(value: Any) -> Any:
    if isinstance(value, dm.Tensor):
        value = value.detach().numpy()
    if isinstance(value, np.ndarray):
        return value.tobytes()
    return {k: _bytes(v) for k, v in value.items()} if isinstance(value, dict) else value


@pytest.mark.parametrize("use", USES, ids=lambda use: use.__name__)
def test_it_is_the_same_as_without_capture(use: Callable[[Wrap], list[Any]], backend: str) -> None:
    made: list[Any] = []

    def wrap(function: Callable[..., Any]) -> Any:
        made.append(dm.capture(function))
        return made[-1]
    called = [_bytes(value) for value in use(lambda function: function)]
    replayed = [_bytes(value) for value in use(wrap)]
    assert [i for i, (one, two) in enumerate(zip(called, replayed, strict=True)) if one != two] == []
    assert all(step.programs for step in made)


def test_a_step_may_return_a_tensor_from_outside_that_it_did_not_use(fast_backend: str) -> None:
    kept = dm.full((3,), 2.0)
    captured = dm.capture(lambda x: (x + 1, kept))
    for _ in range(4):
        moved, given = captured(dm.ones(3))
        assert (moved.tolist(), given.tolist()) == ([2.0] * 3, [2.0] * 3)
    kept.add_(1)
    assert captured(dm.ones(3))[1].tolist() == [3.0] * 3
