"""Places where PyTorch's answer is not the obvious one, each of them once wrong here. Per row: what ours gives, and
what PyTorch does (or the value that it must be)."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import dualml as dm
from dualml import nn, optim
from dualml.errors import DTypeError, GradientError, ShapeError

F = nn.functional
INF, NAN = float("inf"), float("nan")


def _same(found: Any, wanted: Any) -> None:
    if isinstance(wanted, tuple):
        assert len(found) == len(wanted)
        for one, other in zip(found, wanted, strict=True):
            _same(one, other)
        return
    values = found.detach().numpy() if isinstance(found, dm.Tensor) else np.asarray(found)
    expected = np.asarray(wanted)
    assert values.shape == expected.shape, f"shape {values.shape}, expected {expected.shape}"
    assert values.dtype.kind == expected.dtype.kind, f"{values.dtype}, expected {expected.dtype}"
    np.testing.assert_allclose(values, expected, rtol=1e-6)


VALUES: dict[str, tuple[Callable[[], Any], Any]] = {
    "where with numbers, one infinite": (lambda: dm.where(dm.tensor([True, False]), 0.0, -INF), [0.0, -INF]),
    "bool == True": (lambda: dm.tensor([True, False]) == True, [True, False]),  # noqa: E712
    "where of bools": (lambda: dm.tensor([True, False]).where(dm.tensor([True, False]), False), [True, False]),
    "int ** 2 stays int": (lambda: dm.tensor([6, 1]) ** 2, [36, 1]),
    "a list of negative indices": (lambda: dm.tensor([1.0, 2, 3])[[-1, 0]], [3.0, 1.0]),
    "a tensor of negative indices": (lambda: dm.tensor([1.0, 2, 3])[dm.tensor([-1, 0, -3])], [3.0, 1.0, 1.0]),
    "indices in a tensor that are out of range": (
        lambda: (dm.tensor([1.0, 2, 3])[dm.tensor([3, -4, 1])], dm.tensor([1, 2, 3])[dm.tensor([3, -4, 1])]),
        ([NAN, NAN, 2.0], [0, 0, 2])),
    "negative steps": (lambda: dm.arange(24).reshape(2, 3, 4)[::-1, ..., ::-2],
                       np.arange(24).reshape(2, 3, 4)[::-1, ..., ::-2]),
    "a slice of nothing": (lambda: dm.zeros(2, 3)[:, 2:2].shape, (2, 0)),
    "narrow from the end": (lambda: dm.arange(5).narrow(0, -2, 2), [3, 4]),
    "format of a scalar": (lambda: f"{dm.tensor(1.5):.3f}" == "1.500", True),
    "x == None": (lambda: (dm.ones(2) == None) is False, True),  # noqa: E711
    "empty broadcast": (lambda: dm.zeros(2, 0, 3) * dm.ones(2, 1, 1), np.zeros((2, 0, 3))),
    "sum and mean of nothing": (lambda: (dm.zeros(0).sum(), dm.zeros(0, 3).sum(0), dm.zeros(0).mean()),
                                (0.0, [0.0, 0.0, 0.0], NAN)),
    "sum of bools": (lambda: dm.tensor([True, False, True]).sum(), 2),
    "bool * float": (lambda: dm.tensor([True, False]) * 1.5, [1.5, 0.0]),
    "bool + int": (lambda: dm.tensor([True, False]) + 1, [2, 1]),
    "bool + bool": (lambda: dm.tensor([True, False]) + dm.tensor([True, False]), [True, False]),
    "bool > bool": (lambda: dm.tensor([True, False]) > False, [True, False]),
    "nll_loss beside -inf": (lambda: F.nll_loss(dm.tensor([[0.0, -INF]]), dm.tensor([0])), 0.0),
    "nll_loss ignores": (lambda: F.nll_loss(dm.tensor([[-1.0, -2], [-3, -4]]), dm.tensor([1, -100])), 2.0),
    "dropout of everything": (lambda: F.dropout(dm.ones(3), 1.0), [0.0, 0.0, 0.0]),
    "linear without inputs": (lambda: F.linear(dm.zeros(2, 0), dm.zeros(3, 0)), np.zeros((2, 3))),
    "max along a dimension": (lambda: dm.tensor([[1.0, 3], [5, 2]]).max(1), ([3.0, 5.0], [1, 0])),
    "min along a dimension": (lambda: dm.tensor([[1.0, 3], [5, 2]]).min(0, keepdim=True), ([[1.0, 2.0]], [[0, 1]])),
    "max of all": (lambda: dm.tensor([[1.0, 3], [5, 2]]).max(), 5.0),
}


@pytest.mark.parametrize("name", VALUES)
def test_value(name: str, fast_backend: str) -> None:
    ours, wanted = VALUES[name]
    _same(ours(), wanted)


REFUSED: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "& of ints": (lambda: dm.tensor([6, 1]) & dm.tensor([3, 2]), DTypeError, "has no int32"),
    "mask as an index": (lambda: dm.tensor([1.0, 2])[np.array([True, False])], ShapeError, "must be integers"),
    "narrow too far": (lambda: dm.arange(5).narrow(0, 3, 10), ShapeError, "must lie within 5"),
    "an integer too large": (lambda: dm.tensor(2**40, dtype="int32"), DTypeError, "must fit int32"),
    "a number too large": (lambda: dm.tensor([1]) + 2**40, DTypeError, "1099511627776 does not fit int32"),
    "sizes below 0": (lambda: dm.ones(6).reshape(-2, -3), ShapeError, "must hold 6 elements"),
    "two sizes left open": (lambda: dm.ones(1).reshape(-1, -1), ShapeError, "only one size may be -1"),
    "checkpoint of a keyword": (lambda: dm.checkpoint(lambda x, s: x * s, dm.ones(2), s=dm.ones(2, requires_grad=True)),
                                GradientError, "must be positional"),
    "trunc_normal_ where nothing falls": (lambda: nn.init.trunc_normal_(dm.zeros(4), a=50.0, b=51.0), ShapeError,
                                          "must enclose some normal values"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str, cpu: None) -> None:
    wrong, error, message = REFUSED[name]
    with pytest.raises(error, match=message):
        wrong()


# ---- promotion ------------------------------------------------------------------------------------------------------

PROMOTIONS = [("float32", 0, "float16", 1, "float16"), ("float16", 0, "float32", 2, "float32"),
              ("float32", 0, "int32", 1, "float32"), ("int32", 0, "float16", 1, "float16"),
              ("float32", 0, "float16", 0, "float32"), ("bool", 0, "int32", 1, "int32"),
              ("float32", 1, "float16", 1, "float32"), ("int32", 0, "bool", 1, "int32")]


@pytest.mark.parametrize(("left", "left_ndim", "right", "right_ndim", "result"), PROMOTIONS)
def test_scalars_promote_to_another_kind_only(left: str, left_ndim: int, right: str, right_ndim: int, result: str,
                                              cpu: None) -> None:
    a, b = dm.ones(*[1] * left_ndim, dtype=left), dm.ones(*[1] * right_ndim, dtype=right)
    assert (a * b).dtype.name == (b * a).dtype.name == result


# ---- gradients ------------------------------------------------------------------------------------------------------

def test_gradient_crosses_backends(fast_backend: str) -> None:
    x = dm.tensor([1.0, 2.0], requires_grad=True)
    other = "cpu" if fast_backend != "cpu" else "webgpu"
    y = (x * 3).to(other)
    assert y.backend == other
    (y * y).sum().backward()
    _same(x.grad, [18.0, 36.0])
    assert x.grad.backend == fast_backend
    with dm.no_grad():
        assert not x.to(other).requires_grad


def test_a_gradient_that_is_held_outlives_the_next_backward(fast_backend: str) -> None:
    a = nn.Parameter(dm.ones(3))
    optimizer = optim.SGD([a], lr=1.0)
    (a * 2).sum().backward()
    held, detached = a.grad, a.grad.detach()
    optimizer.zero_grad()
    (a * 7).sum().backward()
    _same((held, detached, a.grad), ([2.0] * 3, [2.0] * 3, [7.0] * 3))


def test_a_parameter_as_the_seed_of_another(fast_backend: str) -> None:
    a, b = nn.Parameter(dm.ones(3)), nn.Parameter(dm.ones(3))
    optim.SGD([a, b], lr=1.0)
    (a * 5).sum().backward()
    b.backward(a.grad)
    _same((a.grad, b.grad), ([5.0] * 3, [5.0] * 3))


def test_two_leaves_do_not_share_a_gradient(fast_backend: str) -> None:
    a, b = dm.ones(3, requires_grad=True), dm.ones(3, requires_grad=True)
    (a + b).sum().backward()
    optim.clip_grad_norm_([a, b], 1.0)
    _same((a.grad, b.grad), ([6**-0.5] * 3, [6**-0.5] * 3))
    seed = dm.ones(3)
    a.grad = None
    (a + 1).backward(seed)
    a.grad.zero_()
    _same(seed, [1.0] * 3)


def test_a_gradient_assigned_from_elsewhere_must_fit(cpu: None) -> None:
    for wrong in (dm.ones(3, dtype="float64"), dm.ones(1)):
        a = nn.Parameter(dm.ones(3))
        optimizer = optim.SGD([a], lr=1.0)
        a.grad = wrong
        with pytest.raises(GradientError, match=r"grad must be float32 of shape \(3,\)"):
            optimizer.step()


def test_a_parameter_twice_in_one_op(fast_backend: str) -> None:
    w = nn.Parameter(dm.tensor([[1.0, 2], [3, 4]]))
    optimizer = optim.SGD([w], lr=1.0)
    (w @ w).sum().backward()
    _same(w.grad, [[7.0, 11.0], [9.0, 13.0]])
    optimizer.zero_grad()
    for times in (1, 2):
        F.linear(w, w).sum().backward()
        _same(w.grad, np.array([[8.0, 12.0], [8.0, 12.0]]) * times)


def test_gradient_norm_of_odd_halves(fast_backend: str) -> None:
    """The gaps between parameters in the arena stay zero, whatever lay in that memory before."""
    if dm.float16 not in dm.runtime.get(fast_backend).dtypes:
        pytest.skip("no float16 here")
    a, b = nn.Parameter(dm.ones(3).half()), nn.Parameter(dm.ones(5).half())
    optimizer = optim.SGD([a, b], lr=1.0)
    for _ in range(3):
        dm.full((64,), 100.0).half() * 1.0
        optimizer.zero_grad()
        ((a + 0.0).sum() + (b + 0.0).sum()).backward()
        assert abs(optim.clip_grad_norm_([a, b], 1e9).item() - 8**0.5) < 1e-5


def test_moving_a_model_where_it_is_keeps_the_optimizer(fast_backend: str) -> None:
    model = nn.Linear(3, 2)
    optimizer = optim.SGD(model.parameters(), lr=1.0)
    before = model.to(fast_backend).weight.detach().numpy()
    model(dm.ones(4, 3)).sum().backward()
    optimizer.step()
    _same(model.weight, before - 4)


def test_a_deep_copy_is_apart_from_the_optimizer(fast_backend: str) -> None:
    model = nn.Linear(2, 2)
    optim.AdamW(model.parameters())
    other = copy.deepcopy(model)
    other(dm.ones(1, 2)).sum().backward()
    assert model.weight.grad is None
    _same(other.weight.grad, np.ones((2, 2)))


def test_checkpoint_of_what_returns_several(cpu: None) -> None:
    x = dm.ones(2, requires_grad=True)
    first, second = dm.checkpoint(lambda x: [x * 2, x * 3], x)
    (first + second).sum().backward()
    _same(x.grad, [5.0, 5.0])


def test_checkpoint_sees_that_its_input_changed(cpu: None) -> None:
    x, w = dm.ones(2), dm.ones(2, requires_grad=True)
    y = dm.checkpoint(lambda x, w: x * w, x, w)
    x.fill_(5)
    with pytest.raises(GradientError, match="changed in place after the forward"):
        y.sum().backward()


def test_dm_grad_does_not_look_into_a_checkpoint(cpu: None) -> None:
    model, x = nn.Linear(2, 2), dm.ones(1, 2, requires_grad=True)
    with pytest.raises(GradientError, match="does not see the parameters inside"):
        dm.grad(dm.checkpoint(model, x).sum(), [x])


def test_dm_grad_of_one_tensor_twice(cpu: None) -> None:
    a = dm.ones(3, requires_grad=True)
    _same(dm.grad((a * 2).sum(), [a, a]), ([2.0] * 3, [2.0] * 3))


# ---- others ---------------------------------------------------------------------------------------------------------

def test_half_precision_uniform_is_below_one(cpu: None) -> None:
    assert dm.rand(300_000, dtype="float16").float().max().item() < 1


def test_trunc_normal_has_no_heap_at_its_bounds(fast_backend: str) -> None:
    dm.manual_seed(3)
    values = nn.init.trunc_normal_(dm.zeros(20_000), a=-0.5, b=0.5).numpy()
    assert np.abs(values).max() <= 0.5
    assert (np.abs(values) > 0.499).mean() < 0.01
    assert abs(values.std() - 0.2848) < 0.01  # of a normal distribution cut at half a deviation


def test_threads_share_a_backend(fast_backend: str) -> None:
    wrong: list[float] = []

    def work(k: int) -> None:
        with dm.use_backend(fast_backend):
            for _ in range(40):
                total = ((dm.full((100,), float(k)) * 2 + 1) * 3).sum().item()
                wrong.extend([total] if abs(total - (k * 2 + 1) * 300) > 1e-2 else [])

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_functional_is_a_module_of_nn() -> None:
    import dualml.nn.functional as imported
    assert imported is F


def test_float64_is_refused_by_the_name_of_what_was_called() -> None:
    with dm.use_backend("webgpu"):
        with pytest.raises(DTypeError, match=r"\[tensor\] backend webgpu has no float64.*Pass dtype"):
            dm.tensor(np.ones(3))
        assert dm.tensor(np.ones(3), dtype=dm.float32).tolist() == [1.0] * 3


def test_a_mask_as_an_index_is_refused_with_another_way(cpu: None) -> None:
    x = dm.tensor([1.0, -1.0])
    with pytest.raises(ShapeError, match=r"Use dm.where\(mask, x, 0\)"):
        x[x > 0]
