"""Layers and optimizers against PyTorch: the same weights in, the same numbers out, over several steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import dualml as dm
from dualml import nn, optim
from dualml.errors import GradientError, ShapeError
from tests.parity.modes import REQUIRED

if "torch" in REQUIRED:
    import torch
else:
    torch = pytest.importorskip("torch", reason="PyTorch, which these tests compare with, is not installed")

TN, TF = torch.nn, torch.nn.functional


def _weights(module: nn.Module) -> dict[str, np.ndarray]:
    """Other numbers than a layer begins with: ones and zeros would hide mistakes."""
    rng = np.random.default_rng(5)
    state = {n: rng.standard_normal(p.shape).astype(np.float32) * 0.5 for n, p in module.state_dict().items()}
    module.load_state_dict({n: dm.tensor(v) for n, v in state.items()})
    return state


def _close(here: Any, there: Any, what: str, tolerance: float = 2e-5) -> None:
    there = there.detach().numpy()
    np.testing.assert_allclose(here.detach().numpy(), there, tolerance, tolerance * max(1.0, np.abs(there).max()),
                               err_msg=what)


X, WORDS = (2, 5, 8), np.array([[3, 0, 3, 1, 2], [1, 5, 2, 0, 5]], np.int32)
LAYERS: dict[str, tuple[Callable[[], nn.Module], Callable[[], Any], Any]] = {
    "Linear": (lambda: nn.Linear(8, 3), lambda: TN.Linear(8, 3), X),
    "Linear without bias": (lambda: nn.Linear(8, 3, bias=False), lambda: TN.Linear(8, 3, bias=False), X),
    "Embedding": (lambda: nn.Embedding(6, 4), lambda: TN.Embedding(6, 4), WORDS),
    "LayerNorm": (lambda: nn.LayerNorm(8), lambda: TN.LayerNorm(8), X),
    "LayerNorm of two dims": (lambda: nn.LayerNorm((5, 8), 1e-3), lambda: TN.LayerNorm((5, 8), 1e-3), X),
    "LayerNorm without bias": (lambda: nn.LayerNorm(8, bias=False), lambda: TN.LayerNorm(8, bias=False), X),
    "RMSNorm": (lambda: nn.RMSNorm(8, eps=1e-5), lambda: TN.RMSNorm(8, eps=1e-5), X),
    "GELU": (nn.GELU, TN.GELU, X),
    "GELU tanh": (lambda: nn.GELU("tanh"), lambda: TN.GELU("tanh"), X),
    "ReLU": (nn.ReLU, TN.ReLU, X),
    "SiLU": (nn.SiLU, TN.SiLU, X),
    "Sigmoid": (nn.Sigmoid, TN.Sigmoid, X),
    "Tanh": (nn.Tanh, TN.Tanh, X),
    "Softmax": (lambda: nn.Softmax(dim=1), lambda: TN.Softmax(dim=1), X),
    "Flatten": (nn.Flatten, TN.Flatten, X),
    "Flatten two dims": (lambda: nn.Flatten(0, 1), lambda: TN.Flatten(0, 1), X),
    "Identity": (lambda: nn.Identity(3, name="x"), lambda: TN.Identity(3, name="x"), X),
    "Dropout in eval": (lambda: nn.Dropout(0.5).eval(), lambda: TN.Dropout(0.5).eval(), X),
    "Sequential": (lambda: nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 2)),
                   lambda: TN.Sequential(TN.Linear(8, 6), TN.ReLU(), TN.Linear(6, 2)), X),
}


@pytest.mark.parametrize("name", LAYERS)
def test_layer(name: str, fast_backend: str) -> None:
    """The keys of the state are PyTorch's too, as its load_state_dict is strict."""
    make, make_there, given = LAYERS[name]
    ours, theirs = make(), make_there().double()
    theirs.load_state_dict({n: torch.tensor(v).double() for n, v in _weights(ours).items()})
    x = given if isinstance(given, np.ndarray) else np.random.default_rng(2).standard_normal(given).astype(np.float32)
    floating = x.dtype.kind == "f"
    a = dm.tensor(x, requires_grad=floating)
    b = torch.tensor(x).double().requires_grad_() if floating else torch.tensor(x).long()
    here, there = ours(a), theirs(b)
    _close(here, there, name)
    here.square().sum().backward()
    there.square().sum().backward()
    if floating:
        _close(a.grad, b.grad, f"{name}: input")
    for (n, p), q in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        _close(p.grad, q.grad, f"{name}: {n}")


@pytest.mark.parametrize(("heads", "kv_heads", "causal"), [(4, 4, True), (4, 4, False), (4, 2, True)])
def test_multihead_attention(heads: int, kv_heads: int, causal: bool, fast_backend: str) -> None:
    layer = nn.MultiheadAttention(16, heads, causal=causal, num_kv_heads=kv_heads)
    w = {n: torch.tensor(v).double().requires_grad_() for n, v in _weights(layer).items()}
    x = np.random.default_rng(2).standard_normal((2, 7, 16)).astype(np.float32)
    a, b = dm.tensor(x, requires_grad=True), torch.tensor(x).double().requires_grad_()
    q, k, v = TF.linear(b, w["qkv.weight"], w["qkv.bias"]).split([16, kv_heads * 4, kv_heads * 4], -1)
    q, k, v = (t.reshape(2, 7, -1, 4).transpose(1, 2) for t in (q, k, v))
    mixed = TF.scaled_dot_product_attention(q, k, v, is_causal=causal, enable_gqa=True)
    here, there = layer(a), TF.linear(mixed.transpose(1, 2).reshape(2, 7, 16), w["proj.weight"], w["proj.bias"])
    _close(here, there, "attention")
    here.square().sum().backward()
    there.square().sum().backward()
    _close(a.grad, b.grad, "input")
    for n, p in layer.named_parameters():
        _close(p.grad, w[n].grad, n)


def test_transformer_block(fast_backend: str) -> None:
    block = nn.TransformerBlock(16, 2)
    w = {n: torch.tensor(v).double() for n, v in _weights(block).items()}
    x = np.random.default_rng(2).standard_normal((2, 7, 16)).astype(np.float32)
    h = torch.tensor(x).double()

    def norm(y: Any, n: str) -> Any:
        return TF.layer_norm(y, (16,), w[f"{n}.weight"], w[f"{n}.bias"])

    def linear(y: Any, n: str) -> Any:
        return TF.linear(y, w[f"{n}.weight"], w[f"{n}.bias"])

    q, k, v = (t.reshape(2, 7, 2, 8).transpose(1, 2) for t in linear(norm(h, "ln_1"), "attn.qkv").chunk(3, -1))
    mixed = TF.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(2, 7, 16)
    h = h + linear(mixed, "attn.proj")
    h = h + linear(TF.gelu(linear(norm(h, "ln_2"), "mlp.fc")), "mlp.proj")
    _close(block(dm.tensor(x)), h, "block")


def test_dropout_in_training(backend: str) -> None:
    """Kept elements are scaled, the share of dropped ones is p, and the gradient has the same mask."""
    dm.manual_seed(3)
    x = dm.ones(64, 65, requires_grad=True)
    y = nn.Dropout(0.25)(x)
    values = y.detach().numpy()
    assert set(np.unique(values)) == {0.0, np.float32(1 / 0.75)}
    assert abs((values == 0).mean() - 0.25) < 0.03
    y.sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), values)
    assert (nn.Dropout(0.25)(x).detach().numpy() != values).any()


# ---- optimizers ---------------------------------------------------------------------------------------------------

OPTIMIZERS = {
    "SGD": (lambda p: optim.SGD(p, 0.1), lambda p: torch.optim.SGD(p, 0.1)),
    "SGD momentum": (lambda p: optim.SGD(p, 0.1, momentum=0.9, dampening=0.3, weight_decay=0.01),
                     lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, dampening=0.3, weight_decay=0.01)),
    "SGD nesterov": (lambda p: optim.SGD(p, 0.05, momentum=0.9, nesterov=True),
                     lambda p: torch.optim.SGD(p, 0.05, momentum=0.9, nesterov=True)),
    "Adam": (lambda p: optim.Adam(p, 0.01, weight_decay=0.1), lambda p: torch.optim.Adam(p, 0.01, weight_decay=0.1)),
    "AdamW": (lambda p: optim.AdamW(p, 0.01, betas=(0.9, 0.95), weight_decay=0.1),
              lambda p: torch.optim.AdamW(p, 0.01, betas=(0.9, 0.95), weight_decay=0.1)),
}


def _pair() -> tuple[nn.Module, Any, np.ndarray, np.ndarray]:
    ours = nn.Sequential(nn.Linear(7, 9), nn.GELU(), nn.Linear(9, 3))
    theirs = TN.Sequential(TN.Linear(7, 9), TN.GELU(), TN.Linear(9, 3)).double()
    theirs.load_state_dict({n: torch.tensor(v).double() for n, v in _weights(ours).items()})
    rng = np.random.default_rng(8)
    return ours, theirs, rng.standard_normal((11, 7)).astype(np.float32), rng.integers(0, 3, 11).astype(np.int32)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizer_over_ten_steps(name: str, backend: str) -> None:
    ours, theirs, x, target = _pair()
    make, make_there = OPTIMIZERS[name]
    here, there = make(ours.parameters()), make_there(theirs.parameters())
    for step in range(10):
        loss = nn.functional.cross_entropy(ours(dm.tensor(x)), dm.tensor(target))
        loss_there = TF.cross_entropy(theirs(torch.tensor(x).double()), torch.tensor(target).long())
        _close(loss, loss_there, f"loss of step {step}", 5e-5)
        for optimizer, value in ((here, loss), (there, loss_there)):
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
    for (n, p), q in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        _close(p, q, n, 5e-5)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_gradient_that_comes_late(name: str, backend: str) -> None:
    """Steps are counted by parameter: bias correction and first momentum begin with its first gradient."""
    values = [1.0, -2.0], [0.5, 3.0, 1.5], [4.0]
    ours, theirs = [nn.Parameter(dm.tensor(v)) for v in values], [torch.nn.Parameter(torch.tensor(v)) for v in values]
    make, make_there = OPTIMIZERS[name]
    here, there = make(ours), make_there(theirs)
    for step in range(6):
        for parameters, optimizer in ((ours, here), (theirs, there)):
            optimizer.zero_grad()
            loss = (parameters[0] ** 2).sum() + (parameters[2] ** 3).sum()
            if step >= 3 and step != 4:
                loss = loss + (parameters[1] ** 2).sum()
            loss.backward()
            optimizer.step()
    for index, (p, q) in enumerate(zip(ours, theirs, strict=True)):
        _close(p, q, f"parameter {index}", 1e-5)


def test_one_launch_steps_all_parameters(fast_backend: str, launches: list[str]) -> None:
    ours, _, x, target = _pair()
    optimizer = optim.AdamW(ours.parameters(), 0.01)
    nn.functional.cross_entropy(ours(dm.tensor(x)), dm.tensor(target)).backward()
    launches.clear()
    optimizer.step()
    assert launches == ["adamw"]


def test_two_launches_clip_two_groups(fast_backend: str, launches: list[str]) -> None:
    """One for all norms, one for what gradients are multiplied by."""
    ours, _, x, target = _pair()
    weights = list(ours.parameters())
    optim.AdamW([{"params": [p for p in weights if (p.ndim > 1) == matrix]} for matrix in (True, False)])
    nn.functional.cross_entropy(ours(dm.tensor(x)), dm.tensor(target)).backward()
    scaler = dm.amp.LossScaler("float32", fast_backend)
    launches.clear()
    scaler.factor(optim.grad_squares(weights), 1.0)
    assert launches == ["squared_norm", "grad_factor"]


def test_a_mean_that_forgets_very_slowly(backend: str) -> None:
    """1 - beta2 must not be taken in float32, where 1 - 0.999999 is 4% off."""
    ours, theirs = nn.Parameter(dm.tensor([1.0, -2.0])), torch.nn.Parameter(torch.tensor([1.0, -2.0]))
    here = optim.AdamW([ours], 0.1, betas=(0.9, 0.999999))
    there = torch.optim.AdamW([theirs], 0.1, betas=(0.9, 0.999999))
    for _ in range(4):
        for parameter, optimizer in ((ours, here), (theirs, there)):
            optimizer.zero_grad()
            (parameter ** 2).sum().backward()
            optimizer.step()
    _close(ours, theirs, "parameter", 1e-5)


def test_momentum_that_is_set_later(cpu: None) -> None:
    ours, theirs = nn.Parameter(dm.tensor([1.0, -2.0])), torch.nn.Parameter(torch.tensor([1.0, -2.0]))
    here, there = optim.SGD([ours], 0.1), torch.optim.SGD([theirs], 0.1)
    assert not here.state_dict()["state"][0]  # plain descent keeps nothing
    for step in range(4):
        for parameter, optimizer in ((ours, here), (theirs, there)):
            optimizer.param_groups[0]["momentum"] = 0.9 if step else 0.0
            optimizer.zero_grad()
            (parameter ** 2).sum().backward()
            optimizer.step()
    _close(ours, theirs, "parameter", 1e-6)


def test_parameter_groups_and_state(fast_backend: str) -> None:
    """Two groups with settings of their own; a second optimizer that takes the state over goes on alike."""
    ours, _, x, target = _pair()
    parameters = list(ours.parameters())
    groups = [{"params": parameters[:2], "weight_decay": 0.0}, {"params": parameters[2:], "lr": 0.02}]
    first = optim.AdamW(groups, 0.01)

    def step(optimizer: optim.Optimizer) -> float:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(ours(dm.tensor(x)), dm.tensor(target))
        loss.backward()
        optimizer.step()
        return float(loss.item())

    step(first)
    saved = {n: dm.tensor(p) for n, p in ours.state_dict().items()}
    kept = first.state_dict()
    kept["state"] = {i: {n: dm.tensor(t) for n, t in s.items()} for i, s in kept["state"].items()}
    losses = [step(first) for _ in range(3)]
    ours.load_state_dict(saved)
    second = optim.AdamW([{"params": parameters[:2]}, {"params": parameters[2:]}], 0.5)
    second.load_state_dict(kept)
    assert [step(second) for _ in range(3)] == losses


def test_clip_grad_norm(backend: str) -> None:
    ours, theirs, x, target = _pair()
    optim.SGD(ours.parameters(), 0.1)  # gradients in an arena
    (nn.functional.cross_entropy(ours(dm.tensor(x)), dm.tensor(target)) * 10).backward()
    (TF.cross_entropy(theirs(torch.tensor(x).double()), torch.tensor(target).long()) * 10).backward()
    for bound in (1.0, 100.0):
        here = optim.clip_grad_norm_(ours.parameters(), bound)
        there = TN.utils.clip_grad_norm_(theirs.parameters(), bound)
        _close(here, there, "norm")
        for (n, p), q in zip(ours.named_parameters(), theirs.parameters(), strict=True):
            _close(p.grad, q.grad, n)


def test_clip_without_gradients(cpu: None) -> None:
    with pytest.raises(GradientError, match="no parameter has a gradient"):
        optim.clip_grad_norm_(nn.Linear(2, 2).parameters(), 1.0)


def test_optimizer_refuses(cpu: None) -> None:
    layer = nn.Linear(2, 2)
    with pytest.raises(ShapeError, match="at least one parameter, got none"):
        optim.SGD([])
    with pytest.raises(ShapeError, match="appears twice"):
        optim.SGD([layer.weight, layer.weight])
    with pytest.raises(ShapeError, match="nesterov needs momentum"):
        optim.SGD(layer.parameters(), nesterov=True)


# ---- modules ------------------------------------------------------------------------------------------------------

def test_state_dict_is_strict(cpu: None) -> None:
    layer = nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3))
    state = layer.state_dict()
    state["2.weight"] = state.pop("0.bias")
    with pytest.raises(ShapeError, match=r"missing keys: 0\.bias; unexpected keys: 2\.weight"):
        layer.load_state_dict(state)
    layer.load_state_dict(state, strict=False)
    with pytest.raises(ShapeError, match=r"0\.weight must be \(3, 2\), got \(2, 3\)"):
        layer.load_state_dict(layer.state_dict() | {"0.weight": dm.zeros(2, 3)})


def test_shared_parameters_count_once(cpu: None) -> None:
    first, second = nn.Linear(2, 3), nn.Linear(2, 3)
    second.weight = first.weight
    both = nn.ModuleList([first, second])
    assert both.num_parameters() == 6 + 3 + 3
    assert len(both.state_dict()) == 4
    assert [n for n, _ in both.named_parameters()] == ["0.weight", "0.bias", "1.bias"]


def test_modes_and_repr(cpu: None) -> None:
    block = nn.TransformerBlock(8, 2, dropout=0.1)
    assert all(m.training for m in block.modules())
    assert not any(m.training for m in block.eval().modules())
    assert "(attn): MultiheadAttention" in repr(block)
    assert "Linear(8, 24, bias=True)" in repr(block)


def test_to_another_dtype(cpu: None) -> None:
    layer = nn.Linear(2, 3).to(dm.float64)
    assert layer(dm.ones(1, 2, dtype="float64")).dtype is dm.float64


LOSSES = ("CrossEntropyLoss", "NLLLoss", "MSELoss", "L1Loss", "BCEWithLogitsLoss")


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("name", LOSSES)
def test_loss(name: str, reduction: str, fast_backend: str) -> None:
    rng = np.random.default_rng(3)
    x = rng.standard_normal((6, 5)).astype(np.float32)
    target = rng.random((6, 5)).astype(np.float32) if name in LOSSES[2:] else np.array([1, 4, 0, -100, 2, 2])
    here = getattr(nn, name)(reduction=reduction)(dm.tensor(x), dm.tensor(target))
    there = getattr(TN, name)(reduction=reduction)(torch.tensor(x), torch.tensor(target))
    _close(here, there, name)


def test_apply_and_other_names(cpu: None) -> None:
    """Module.apply goes through the modules in PyTorch's order; nn.utils has optim's clip_grad_norm_."""
    def visited(library: Any) -> list[str]:
        seen: list[str] = []
        model = library.Sequential(library.Linear(2, 3), library.Sequential(library.Tanh(), library.Linear(3, 1)))
        assert model.apply(lambda m: seen.append(type(m).__name__)) is model
        return seen
    assert visited(nn) == visited(TN)
    model = nn.Linear(3, 2)
    (model(dm.ones(1, 3)).sum() * 100).backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    assert optim.grad_norm(model.parameters()).item() == pytest.approx(1.0, abs=1e-4)


SCHEDULERS: dict[str, dict[str, Any]] = {
    "StepLR": {"step_size": 3, "gamma": 0.5},
    "CosineAnnealingLR": {"T_max": 7, "eta_min": 0.01},
    "LambdaLR": {"lr_lambda": lambda step: 0.9 ** step},
}


@pytest.mark.parametrize("name", SCHEDULERS)
def test_scheduler(name: str, cpu: None) -> None:
    """The rates of two groups over more steps than a period, and once more from the middle on, by its state."""
    def groups(parameter: Callable[[], Any]) -> list[dict[str, Any]]:
        return [{"params": [parameter()], "lr": 0.5}, {"params": [parameter()], "lr": 0.02}]
    ours = optim.SGD(groups(lambda: nn.Parameter(dm.ones(2))), lr=0.1)
    theirs = torch.optim.SGD(groups(lambda: torch.ones(2, requires_grad=True)), lr=0.1)
    here = getattr(optim.lr_scheduler, name)(ours, **SCHEDULERS[name])
    there = getattr(torch.optim.lr_scheduler, name)(theirs, **SCHEDULERS[name])
    rates, states = [], []
    for _ in range(18):
        assert here.get_last_lr() == pytest.approx(there.get_last_lr(), rel=1e-6)
        rates.append(here.get_last_lr())
        states.append(here.state_dict())
        ours.step()
        theirs.step()
        here.step()
        there.step()
    again = getattr(optim.lr_scheduler, name)(ours, **SCHEDULERS[name])
    again.load_state_dict(states[5])
    for expected in rates[5:]:
        assert again.get_last_lr() == expected
        again.step()
