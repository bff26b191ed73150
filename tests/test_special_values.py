"""NaN, infinities, zeros, very large values: every elementwise op and reduction gives what PyTorch gives.

WGSL calls NaN and infinity indeterminate; on the drivers tested our kernels, which look at their bits where built-in
functions may lose them, agree nevertheless."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import dualml as dm
from tests.parity.modes import REQUIRED

if "torch" in REQUIRED:
    import torch
else:
    torch = pytest.importorskip("torch", reason="PyTorch, which these tests compare with, is not installed")

F, TF = dm.nn.functional, torch.nn.functional
NAN, INF = float("nan"), float("inf")
VALUES = np.array([NAN, INF, -INF, 0.0, -0.0, 1.0, -1.0, 0.5, -2.5, 3.0, -4.0, 88.0, -88.0, 200.0, -200.0, 1e30, -1e30,
                   1e-30, 3.4e38, -3.4e38], np.float32)
MODEST = VALUES[~(np.abs(VALUES) > 1000) | np.isinf(VALUES)]

Function = Callable[..., Any]
UNARY: dict[str, tuple[Function, Function]] = {
    n: (lambda x, n=n: getattr(x, n)(), lambda x, n=n: getattr(torch, n)(x))
    for n in ("exp", "log", "log1p", "expm1", "sqrt", "rsqrt", "reciprocal", "square", "tanh", "sigmoid", "relu", "erf",
              "floor", "ceil", "abs", "neg", "sign", "isnan", "isinf", "isfinite") if n != "neg"}
UNARY |= {
    "neg": (lambda x: -x, lambda x: -x),
    "sin": (lambda x: x.sin(), torch.sin), "cos": (lambda x: x.cos(), torch.cos),
    "gelu": (F.gelu, TF.gelu), "gelu_tanh": (lambda x: F.gelu(x, "tanh"), lambda x: TF.gelu(x, approximate="tanh")),
    "silu": (F.silu, TF.silu), "softplus": (lambda x: x.softplus(), TF.softplus),
    "clamp": (lambda x: x.clamp(-1.5, 2.0), lambda x: x.clamp(-1.5, 2.0)),
    "clamp above": (lambda x: x.clamp(max=2.0), lambda x: x.clamp(max=2.0)),
    "maximum with a number": (lambda x: x.maximum(0.0), lambda x: torch.maximum(x, torch.tensor(0.0))),
}
BINARY: dict[str, tuple[Function, Function]] = {
    "add": (lambda x, y: x + y, lambda x, y: x + y), "sub": (lambda x, y: x - y, lambda x, y: x - y),
    "mul": (lambda x, y: x * y, lambda x, y: x * y), "div": (lambda x, y: x / y, lambda x, y: x / y),
    "floor_divide": (lambda x, y: x // y, lambda x, y: x // y), "remainder": (lambda x, y: x % y, lambda x, y: x % y),
    "pow": (lambda x, y: x ** y, lambda x, y: x ** y),
    "maximum": (dm.maximum, torch.maximum), "minimum": (dm.minimum, torch.minimum),
    "eq": (lambda x, y: x == y, lambda x, y: x == y), "ne": (lambda x, y: x != y, lambda x, y: x != y),
    "lt": (lambda x, y: x < y, lambda x, y: x < y), "le": (lambda x, y: x <= y, lambda x, y: x <= y),
    "gt": (lambda x, y: x > y, lambda x, y: x > y), "ge": (lambda x, y: x >= y, lambda x, y: x >= y),
}
REDUCTIONS: dict[str, tuple[Function, Function]] = {
    "sum": (lambda x, d: x.sum(d), lambda x, d: x.sum(d)), "mean": (lambda x, d: x.mean(d), lambda x, d: x.mean(d)),
    "amax": (lambda x, d: x.amax(d), lambda x, d: x.amax(d)), "amin": (lambda x, d: x.amin(d), lambda x, d: x.amin(d)),
    "argmax": (lambda x, d: x.argmax(d), lambda x, d: x.argmax(d).int()),
    "argmin": (lambda x, d: x.argmin(d), lambda x, d: x.argmin(d).int()),
    "prod": (lambda x, d: x.prod(d), lambda x, d: x.prod(d)),
    "var": (lambda x, d: x.var(d), lambda x, d: x.var(d)), "std": (lambda x, d: x.std(d), lambda x, d: x.std(d)),
    "logsumexp": (lambda x, d: x.logsumexp(d), lambda x, d: x.logsumexp(d)),
    "softmax": (lambda x, d: x.softmax(d), lambda x, d: x.softmax(d)),
    "log_softmax": (lambda x, d: x.log_softmax(d), lambda x, d: x.log_softmax(d)),
}
# PyTorch's gelu overflows in between, on the CPU: NaN of infinity and infinity of 3.4e38. Ours are those values.
EXACT = {"gelu": {INF: INF, float(np.float32(3.4e38)): 3.4e38}}
FEW = {"pow", "remainder"}  # for which very large arguments say nothing in PyTorch


def _agree(here: Any, there: Any, inputs: tuple[np.ndarray, ...] = ()) -> None:
    got, want = here.detach().numpy(), there.detach().numpy()
    assert got.shape == want.shape
    close = np.isclose(got.astype(np.float64), want.astype(np.float64), rtol=2e-5, atol=1e-6, equal_nan=True)
    wrong = np.flatnonzero(~close.reshape(-1))[:8]
    shown = [(*(float(x.reshape(-1)[i]) for x in inputs), got.reshape(-1)[i], want.reshape(-1)[i]) for i in wrong]
    assert close.all(), f"inputs, ours, PyTorch's: {shown}"


@pytest.mark.parametrize("name", UNARY)
def test_elementwise(name: str, backend: str) -> None:
    x = MODEST if name in FEW else VALUES
    x = np.concatenate([x, x[:1]])  # of odd length too: vectors and scalars
    ours, theirs = UNARY[name]
    for values in (x, x[:16]):
        wanted = theirs(torch.tensor(values))
        for value, right in EXACT.get(name, {}).items():
            wanted[values == np.float32(value)] = right
        _agree(ours(dm.tensor(values)), wanted, (values,))


@pytest.mark.parametrize("name", BINARY)
def test_elementwise_of_two(name: str, backend: str) -> None:
    chosen = MODEST if name in FEW else VALUES
    a, b = (np.ascontiguousarray(v) for v in np.array(list(itertools.product(chosen, chosen)), np.float32).T)
    ours, theirs = BINARY[name]
    _agree(ours(dm.tensor(a), dm.tensor(b)), theirs(torch.tensor(a), torch.tensor(b)), (a, b))


def test_divisions_that_round_down_are_exact(backend: str) -> None:
    """Of any two floats, next to whole multiples too, where PyTorch's vector code is off by all of the divisor."""
    rng = np.random.default_rng(8)
    bits = rng.integers(0, 2**32, (2, 4000), np.uint32).view(np.float32)
    size = rng.standard_normal((2, 4000)).astype(np.float32)
    whole = np.float32(rng.integers(-999, 999, 4000)) * size[1]
    a = np.concatenate([bits[0], size[0] * 1e6, whole, np.nextafter(whole, np.float32(0)), np.float32([1e-45, 7e-45])])
    b = np.concatenate([bits[1], size[1], size[1], size[1], np.float32([1e-45, 3e-45])])
    normal = (np.abs(a) > 1e-37) & (np.abs(b) > 1e-37) if backend == "webgpu" else np.ones_like(a, bool)
    a, b = a[normal], b[normal]  # WGSL may take what is smaller for 0
    with np.errstate(all="ignore"):
        left, quotient = np.remainder(a, b), np.floor_divide(a, b)
    left[np.abs(left) < 2e-38] = 0
    found = (dm.tensor(a) % dm.tensor(b)).numpy()
    found[np.abs(found) < 2e-38] = 0
    np.testing.assert_array_equal(found, left)
    np.testing.assert_allclose((dm.tensor(a) // dm.tensor(b)).numpy(), quotient, 1e-6)


@pytest.mark.parametrize(("name", "exact", "units"), [
    ("log", np.log, 4), ("log1p", np.log1p, 5), ("exp", np.exp, 4), ("expm1", np.expm1, 5),
    ("sigmoid", lambda x: 1 / (1 + np.exp(-x)), 6), ("softplus", lambda x: np.logaddexp(x, 0), 6)])
def test_exponentials_and_logarithms(backend: str, name: str, exact: Function, units: float) -> None:
    """Within so many units of the last place: of numbers next to 0 and to 1, and as far from them as results go."""
    rng = np.random.default_rng(10)
    near = rng.standard_normal(20_000) * 10.0 ** rng.uniform(-8, -1, 20_000)
    bits = rng.integers(0x02000000, 0x7f800000, 20_000, np.uint32).view(np.float32)
    far = bits if name.startswith("log") else rng.uniform(-86, 88.5, 20_000)
    x = np.concatenate([1 + near if name == "log" else near, far])
    x = x.astype(np.float32)
    right = exact(x.astype(np.float64))
    off = np.abs(getattr(dm.tensor(x), name)().numpy() - right) / np.spacing(np.abs(right).astype(np.float32))
    off[np.abs(right) < 1.2e-38] = 0  # WGSL may take these for 0
    assert off.max() < units, (x[off.argmax()], off.max())


def test_sine_and_cosine_of_any_float(backend: str) -> None:
    """Within two units of the last place, however many turns there are, and next to whole ones too."""
    rng = np.random.default_rng(9)
    bits = rng.integers(0, 0x7f800000, 200_000, np.uint32).view(np.float32)
    near = (np.arange(1, 20_000) * (np.pi / 2)).astype(np.float32)
    # the most that these polynomials are off, and the one that is nearest to a multiple of pi / 2
    worst = np.float32([float.fromhex(x) for x in ("0x1.8511d8p125", "0x1.848238p10", "0x1.f37c8ap95")])
    x = np.concatenate([bits[bits > 1e-37], near, np.nextafter(near, np.float32(0)), worst])
    x = np.concatenate([x, -x])
    for ours, exact in ((dm.sin, np.sin), (dm.cos, np.cos)):
        right = exact(x.astype(np.float64))
        off = np.abs(ours(dm.tensor(x)).numpy() - right) / np.spacing(np.abs(right).astype(np.float32))
        assert off.max() < 2, (x[off.argmax()], off.max())


@pytest.mark.parametrize("name", ["sin", "expm1", "log1p"])
def test_minus_zero_stays(backend: str, name: str) -> None:
    assert np.signbit(getattr(dm.tensor([-0.0]), name)().numpy()).all()


def test_integers_divided_by_nothing(backend: str) -> None:
    """No device can raise an error in the middle of its work: 0 is what NumPy gives."""
    x, least = dm.tensor([5, -5, 0]), dm.tensor([-2**31])
    for zero in (0, dm.tensor([0, 0, 0])):
        assert (x // zero).tolist() == (x % zero).tolist() == [0, 0, 0]
    assert ((least // -1).tolist(), (least % -1).tolist()) == ([-2**31], [0])  # it wraps


def _rows(size: int) -> np.ndarray:
    """Rows of ordinary numbers with a special one at every kind of place: none, one, two of a kind, two kinds."""
    rng = np.random.default_rng(size)
    rows = []
    specials = ((), (NAN,), (INF,), (-INF,), (INF, INF), (-INF, -INF), (INF, -INF), (NAN, INF), (NAN, -INF), (NAN, NAN))
    for special in specials:
        for _ in range(3):
            row = rng.standard_normal(size).astype(np.float32)
            row[rng.choice(size, len(special), replace=False)] = special
            rows.append(row)
    return np.array([*rows, np.full(size, -INF), np.full(size, INF), np.full(size, NAN), np.zeros(size)], np.float32)


@pytest.mark.parametrize("name", REDUCTIONS)
def test_reductions(name: str, backend: str) -> None:
    ours, theirs = REDUCTIONS[name]
    for size in (5, 12, 131, 132):
        rows = _rows(size)
        _agree(ours(dm.tensor(rows), 1), theirs(torch.tensor(rows), 1))
        columns = np.ascontiguousarray(rows.T)
        _agree(ours(dm.tensor(columns), 0), theirs(torch.tensor(columns), 0))


def test_a_long_row_in_pieces(fast_backend: str) -> None:
    x = np.random.default_rng(0).standard_normal(20_000).astype(np.float32)
    x[[7_000, 15_001]] = NAN
    for ours, theirs in (REDUCTIONS[n] for n in ("amax", "amin", "argmax", "argmin", "sum", "logsumexp")):
        _agree(ours(dm.tensor(x), 0), theirs(torch.tensor(x), 0))


def test_layers_keep_a_nan_in_its_row(backend: str) -> None:
    x = np.random.default_rng(1).standard_normal((4, 16)).astype(np.float32)
    x[1, 3], x[2, 5] = NAN, INF
    target = np.array([0, 1, 2, 3], np.int32)
    here, there = dm.tensor(x), torch.tensor(x)
    _agree(F.layer_norm(here, (16,)), TF.layer_norm(there, (16,)))
    _agree(F.cross_entropy(here, dm.tensor(target), reduction="none"),
           TF.cross_entropy(there, torch.tensor(target).long(), reduction="none"))
    _agree(here @ here.T, there @ there.T)


GRADIENTS = {"maximum": (dm.maximum, torch.maximum), "minimum": (dm.minimum, torch.minimum)}


@pytest.mark.parametrize("name", GRADIENTS)
def test_gradients_where_values_tie_or_are_nan(name: str, fast_backend: str) -> None:
    a = np.array([1, 1, 2, NAN, 1, NAN, INF, -INF], np.float32)
    b = np.array([1, 2, 1, 1, NAN, NAN, INF, -INF], np.float32)
    results = []
    for library, function in zip((dm, torch), GRADIENTS[name], strict=True):
        x, y = (library.tensor(v).requires_grad_() for v in (a, b))
        function(x, y).sum().backward()
        results.append((x.grad, y.grad))
    for here, there in zip(*results, strict=True):
        _agree(here, there, (a, b))


def test_gradient_of_a_norm_of_zeros(fast_backend: str) -> None:
    x = dm.zeros(3, requires_grad=True)
    x.norm().backward()
    assert x.grad.tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_keys_that_a_query_does_not_see_do_not_matter(fast_backend: str, bad: float) -> None:
    q, k, v = np.random.default_rng(0).standard_normal((3, 1, 2, 4, 8)).astype(np.float32)
    plain, spoilt = k.copy(), k.copy()
    spoilt[..., 3, :] = bad
    found = [dm.nn.functional.scaled_dot_product_attention(*map(dm.tensor, (q, keys, v)), is_causal=True).numpy()
             for keys in (plain, spoilt)]
    np.testing.assert_allclose(found[1][..., :3, :], found[0][..., :3, :], rtol=1e-5)
