"""The tape: what it records, what it refuses, and what it keeps in memory."""

from __future__ import annotations

import gc

import numpy as np
import pytest

import dualml as dm
from dualml import nn, runtime
from dualml.errors import BackendError, DTypeError, GradientError, ShapeError
from dualml.tape import lies_in


def _leaf(*values: float, **kwargs: object) -> dm.Tensor:
    return dm.tensor(list(values), requires_grad=True, **kwargs)  # type: ignore[arg-type]


# ---- what flows ---------------------------------------------------------------------------------------------------

def test_gradients_accumulate(backend: str) -> None:
    x = _leaf(1.0, 2.0)
    (x * x).sum().backward()
    (x * 3).sum().backward()
    assert x.grad.tolist() == [5.0, 7.0]
    x.grad = None
    x.sum().backward()
    assert x.grad.tolist() == [1.0, 1.0]


def test_gradients_accumulate_in_an_arena(backend: str) -> None:
    """An optimizer gives parameters memory for their gradients; backward writes into it, then adds to it."""
    layer = nn.Linear(3, 2)
    dm.optim.SGD(layer.parameters(), 0.1)
    slots = [p._slot for p in layer.parameters()]
    x = dm.ones(4, 3)
    layer(x).sum().backward()
    assert all(lies_in(p.grad._array, slot) for p, slot in zip(layer.parameters(), slots, strict=True))
    first = [p.grad.numpy() for p in layer.parameters()]
    layer(x).sum().backward()
    assert all(lies_in(p.grad._array, slot) for p, slot in zip(layer.parameters(), slots, strict=True))
    for p, before in zip(layer.parameters(), first, strict=True):
        np.testing.assert_array_equal(p.grad.numpy(), 2 * before)


def test_one_tensor_used_many_times(backend: str) -> None:
    x = _leaf(3.0)
    y = x * x
    (y * y + y * x + x).backward()
    assert x.grad.tolist() == [4 * 27 + 3 * 9 + 1.0]


def test_a_parameter_used_twice_in_an_arena(backend: str) -> None:
    layer = nn.Linear(2, 2, bias=False)
    dm.optim.SGD(layer.parameters(), 0.1)
    x = dm.ones(1, 2)
    w = layer.weight.detach().numpy()
    layer(layer(x)).sum().backward()
    want = np.ones((2, 1)) @ (w @ np.ones((2, 1))).T + (w.T @ np.ones((2, 1))) @ np.ones((1, 2))
    np.testing.assert_allclose(layer.weight.grad.numpy(), want, rtol=1e-5)


def test_non_scalars_need_a_gradient(cpu: None) -> None:
    x = _leaf(1.0, 2.0)
    with pytest.raises(GradientError, match=r"shape \(2,\) needs an explicit gradient"):
        (x * 2).backward()
    (x * 2).backward(dm.tensor([1.0, 10.0]))
    assert x.grad.tolist() == [2.0, 20.0]
    with pytest.raises(GradientError, match=r"gradient must have the tensor's shape \(2,\), got \(3,\)"):
        (x * 2).backward(dm.ones(3))


def test_detach_and_integers_stop_gradients(backend: str) -> None:
    x = _leaf(1.5, 2.5)
    y = (x.detach() * x).sum() + x.int().float().sum()
    y.backward()
    assert x.grad.tolist() == [1.5, 2.5]
    assert not x.detach().requires_grad
    assert not (x > 2).requires_grad


def test_outputs_of_one_op_used_alone(backend: str) -> None:
    """An op of two outputs gets no gradient for the one that nothing depends on."""
    x, r = dm.randn(3, 8, requires_grad=True), dm.randn(3, 8, requires_grad=True)
    h, normed = nn.functional.add_layer_norm(x, r)
    h.sum().backward(retain_graph=True)
    np.testing.assert_array_equal(x.grad.numpy(), np.ones((3, 8)))
    x.grad = r.grad = None
    normed.square().sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), r.grad.numpy())


def test_backward_of_what_has_no_history(cpu: None) -> None:
    with pytest.raises(GradientError, match="does not depend on any tensor with requires_grad=True"):
        dm.ones(1).backward()
    with pytest.raises(DTypeError, match="only floating point tensors have gradients, got int32"):
        dm.tensor([1, 2], requires_grad=True)


# ---- modes --------------------------------------------------------------------------------------------------------

def test_no_grad(backend: str) -> None:
    x = _leaf(1.0)
    with dm.no_grad():
        y = x * 2
        assert not dm.is_grad_enabled()
        with dm.enable_grad():
            z = x * 3
    assert dm.is_grad_enabled()
    assert (y.requires_grad, z.requires_grad) == (False, True)
    assert y.is_leaf

    @dm.no_grad()
    def double(t: dm.Tensor) -> dm.Tensor:
        return t * 2
    assert not double(x).requires_grad


def test_modes_are_left_after_an_error(cpu: None) -> None:
    with pytest.raises(ShapeError), dm.no_grad():
        dm.ones(2) + dm.ones(3)
    assert dm.is_grad_enabled()


# ---- what is refused ----------------------------------------------------------------------------------------------

def test_a_graph_is_walked_once(backend: str) -> None:
    x = _leaf(2.0)
    y = x * x
    y.backward(retain_graph=True)
    y.backward()
    assert x.grad.tolist() == [8.0]
    with pytest.raises(GradientError, match=r"\[mul\] backward ran through this graph before.*retain_graph=True"):
        y.backward()


def test_saved_values_must_not_change(backend: str) -> None:
    x, w = _leaf(1.0, 2.0), dm.tensor([3.0, 4.0])
    y = (x * w).sum()
    w.mul_(2)
    with pytest.raises(GradientError, match=r"\[mul\] a tensor of shape \(2,\) .* was changed in place"):
        y.backward()


def test_values_that_are_not_saved_may_change(backend: str) -> None:
    x, w = _leaf(1.0, 2.0), dm.tensor([3.0, 4.0])
    y = (x + w).sum()
    w.zero_()
    y.backward()
    assert x.grad.tolist() == [1.0, 1.0]


def test_an_optimizer_step_between_forward_and_backward(cpu: None) -> None:
    layer = nn.Linear(2, 2)
    optimizer = dm.optim.SGD(layer.parameters(), 0.1)
    x = dm.ones(1, 2, requires_grad=True)
    layer(x).sum().backward()
    late = layer(x).sum()
    optimizer.step()
    with pytest.raises(GradientError, match="was changed in place after the forward"):
        late.backward()


def test_leaves_change_in_place_only_without_grad(cpu: None) -> None:
    x = _leaf(1.0)
    with pytest.raises(GradientError, match=r"\[add_\] a tensor that requires a gradient .* dm\.no_grad\(\)"):
        x.add_(1)
    with dm.no_grad():
        x.add_(1).mul_(3).copy_(x * 2)
    assert x.tolist() == [12.0]


def test_numpy_of_what_has_a_gradient(cpu: None) -> None:
    with pytest.raises(GradientError, match=r"Use \.detach\(\)\.numpy\(\)"):
        _leaf(1.0).numpy()


def test_one_op_is_on_one_backend(cpu: None) -> None:
    if "webgpu" not in runtime.backend_names():
        pytest.skip("needs a second backend")
    x = _leaf(1.0)
    there = dm.ones(1, backend="webgpu")
    with pytest.raises(BackendError, match="all tensors must be on one backend, got cpu and webgpu"):
        x + there
    with pytest.raises(BackendError, match="gradient must be on cpu, got webgpu"):
        (x * 2).backward(there)


# ---- gradients as values ------------------------------------------------------------------------------------------

def test_grad(backend: str) -> None:
    x, y = _leaf(1.0, 2.0), _leaf(3.0, 4.0)
    z = x * y
    dx, dz = dm.grad((z * z).sum(), [x, z])
    assert dx.tolist() == [2 * 1 * 9.0, 2 * 2 * 16.0]
    assert dz.tolist() == [6.0, 16.0]
    assert x.grad is None
    assert dm.grad(x.sum(), [x, y], allow_unused=True)[1] is None
    with pytest.raises(GradientError, match="input 1 is not used"):
        dm.grad(x.sum(), [x, y])
    with pytest.raises(GradientError, match="every input must have requires_grad=True"):
        dm.grad(x.sum(), dm.ones(2))


def test_checkpoint(backend: str) -> None:
    """The same gradients, dropout included, with less kept between forward and backward."""
    layer = nn.Sequential(nn.Linear(8, 32), nn.GELU(), nn.Dropout(0.5), nn.Linear(32, 8))
    x = dm.randn(4, 8, requires_grad=True)

    def gradients(run: object) -> list[np.ndarray]:
        dm.manual_seed(4)
        layer.zero_grad()
        x.grad = None
        out = dm.checkpoint(layer, x) if run == "checkpoint" else layer(x)
        out.square().sum().backward()
        return [x.grad.numpy()] + [p.grad.numpy() for p in layer.parameters()]

    for here, there in zip(gradients("checkpoint"), gradients("plain"), strict=True):
        np.testing.assert_allclose(here, there, 1e-5, 1e-6)


def test_checkpoint_leaves_the_generator_where_it_was(cpu: None) -> None:
    x = dm.ones(8, requires_grad=True)
    dm.manual_seed(1)
    out = dm.checkpoint(nn.Dropout(0.5), x)
    ahead = dm.rand(4).numpy()
    dm.manual_seed(1)
    nn.Dropout(0.5)(x)
    np.testing.assert_array_equal(dm.rand(4).numpy(), ahead)
    state = dm.random.get_state()
    out.sum().backward()
    assert dm.random.get_state() == state


def test_gradcheck(cpu: None) -> None:
    rng = np.random.default_rng(0)
    x, w = (dm.tensor(rng.standard_normal(s), requires_grad=True) for s in ((3, 4), (2, 4)))
    assert x.dtype is dm.float64
    assert dm.gradcheck(lambda a, b: nn.functional.gelu(nn.functional.linear(a, b)).softmax(), [x, w])
    with pytest.raises(GradientError, match=r"input 0, element 0: gradient .* finite difference"):
        dm.gradcheck(lambda a: a * a.detach(), [x])


# ---- memory -------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("name", ["cpu", "webgpu"])
def test_memory_is_free_after_backward(name: str) -> None:
    """What the graph kept goes with the walk over it, without waiting for the garbage collector."""
    if name not in runtime.backend_names():
        pytest.skip(f"{name} is not there")
    with dm.use_backend(name):
        layer = nn.Sequential(*[nn.Sequential(nn.Linear(64, 64), nn.GELU()) for _ in range(6)])
        x, memory = dm.randn(256, 64), runtime.get(name).memory
        layer(x).sum().backward()
        layer.zero_grad()
        gc.collect()
        gc.disable()
        try:
            before = memory()["in_use"]
            loss = layer(x).sum()
            kept = memory()["in_use"] - before
            assert kept >= 11 * 256 * 64 * 4, "the graph holds the inputs of twelve layers, the first not counted"
            loss.backward()
            after = memory()["in_use"] - before
            gradients = sum(p.numel() * 4 for p in layer.parameters())
            assert after <= 1.3 * gradients + 8192, f"{after} bytes are left, {gradients} are gradients"
            layer.zero_grad()
            del loss
            assert memory()["in_use"] == before
        finally:
            gc.enable()


@pytest.mark.parametrize("name", ["cpu", "webgpu"])
def test_checkpoint_saves_memory(name: str) -> None:
    if name not in runtime.backend_names():
        pytest.skip(f"{name} is not there")
    with dm.use_backend(name):
        layer = nn.Sequential(*[nn.GELU() for _ in range(8)])
        x, memory = dm.randn(128, 128, requires_grad=True), runtime.get(name).memory
        before = memory()["in_use"]
        plain = layer(x)
        kept = memory()["in_use"] - before
        del plain
        gc.collect()
        saved = dm.checkpoint(layer, x)
        assert memory()["in_use"] - before <= kept / 4
        del saved


def test_a_deep_graph(cpu: None) -> None:
    """Walking back uses no recursion."""
    x = _leaf(1.0)
    y = x
    for _ in range(5000):
        y = y + 1
    y.backward()
    assert x.grad.tolist() == [1.0]
