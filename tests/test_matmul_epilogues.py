"""Products with epilogues (ops/matmul_epilogues.py) as layers use them, where a backend joins them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import dualml as dm
from dualml import amp, dtypes, functional as F, nn, optim, runtime
from dualml.array import from_numpy, run
from dualml.backends.base import Backend
from dualml.models import GPT, GPTConfig
from dualml.nn.attention import MLP
from dualml.ops.matmul_epilogues import matmul_gelu, matmul_gelu_backward, matmul_sums
from tests.parity.modes import PRESENT
from tests.training import training_step

ALL = frozenset({"sums", "gelu", "gelu_tanh"})
BACKENDS = [name for name in ("cpu", "webgpu", "cuda_on_cpu") if name in PRESENT]
TILES = {"128": (133, 144), "64": (50, 56), "32": (27, 136)}  # rows of tiles on tensor cores, and sizes that lead there


class Names:
    """A hook on the one door: sources and kernels of what is launched."""

    def __init__(self) -> None:
        self.found: list[str] = []
        self.stems: set[str] = set()

    def before(self, launch: runtime.Launch) -> None:
        self.found.append(launch.spec.kernel.name)
        self.stems.add(launch.spec.stem)

    def after(self, launch: runtime.Launch) -> None: ...


@pytest.fixture
def names() -> Iterator[Names]:
    hook = Names()
    runtime.hooks.append(hook)
    yield hook
    runtime.hooks.remove(hook)


def join(monkeypatch: pytest.MonkeyPatch, *what: str) -> None:
    monkeypatch.setattr(Backend, "joins", lambda backend, one, dtype: one in what)


def passes(backend: str, approximate: str, dtype: str = "float32", inner: int = 24) -> list[np.ndarray]:
    """Results and gradients of an MLP [inner, 40, 16], and of a layer behind it."""
    rng = np.random.default_rng(3)
    shapes = (2, 9, inner), (40, inner), (40,), (16, 40), (16,), (8, 16), (8,)
    given = [dm.tensor((rng.standard_normal(s) / (s[-1] ** 0.5 if len(s) == 2 else 1)).astype(np.float32),
                       backend=backend).to(dtype).detach().requires_grad_() for s in shapes]
    out = F.linear(F.linear_gelu_linear(*given[:5], approximate=approximate), *given[5:])
    out.backward(dm.tensor(rng.standard_normal((2, 9, 8)).astype(np.float32), backend=backend).to(out.dtype))
    found = [out.detach(), *(t.grad for t in given)]
    return [t.numpy().astype(np.float32) for t in found if t is not None]


@pytest.mark.parametrize("approximate", ["none", "tanh"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_joined_layers_compute_the_same(backend: str, approximate: str, names: Names,
                                        monkeypatch: pytest.MonkeyPatch) -> None:
    apart = passes(backend, approximate)
    assert not {"matmul_gelu", "matmul_gelu_backward", "matmul_sums"} & {*names.found}
    join(monkeypatch, *ALL)
    names.found.clear()
    joined = passes(backend, approximate)
    assert len(joined) == len(apart) == 8
    for one, two in zip(joined, apart, strict=True):
        np.testing.assert_allclose(one, two, 1e-4, 1e-5)
    assert names.found == ["matmul_gelu", "matmul", "matmul", "matmul", "matmul_sums", "matmul_sums",
                           "matmul_gelu_backward", "matmul_sums", "matmul"]


def test_what_cannot_be_joined_is_not(names: Names, monkeypatch: pytest.MonkeyPatch) -> None:
    """GELU alone, sums alone, hidden sizes off eight, nothing to sum, gradients that nobody wants."""
    for what, approximate, kernels in (("gelu_tanh", "tanh", {"matmul_gelu", "matmul_gelu_backward"}),
                                       ("gelu_tanh", "none", set()), ("sums", "tanh", {"matmul_sums"})):
        join(monkeypatch, what)
        names.found.clear()
        passes("cpu", approximate)
        assert {name for name in names.found if name.startswith("matmul_")} == kernels
    join(monkeypatch, *ALL)
    names.found.clear()
    x, weight, bias, weight2, bias2 = (dm.ones(*s, backend="cpu") for s in ((3, 4), (12, 4), (12,), (4, 12), (4,)))
    F.linear_gelu_linear(x, weight, bias, weight2, bias2)
    none = dm.ones(0, 4, backend="cpu"), weight.detach().requires_grad_(), bias.detach().requires_grad_()
    F.linear(*none).sum().backward()
    assert not np.any(none[1].grad.numpy())  # type: ignore[union-attr]
    F.linear(x, weight, bias.detach().requires_grad_()).sum().backward()
    F.linear(x, weight.detach().requires_grad_(), bias).sum().backward()
    assert not any(name.startswith("matmul_") for name in names.found)


@pytest.mark.parametrize("name", ["fc", "proj"])
def test_a_layer_of_another_kind_is_called(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An MLP of whose layers one was replaced, as adapters do, goes through it."""
    class Doubled(nn.Linear):
        def forward(self, x: Any) -> Any:
            return 2 * super().forward(x)

    join(monkeypatch, *ALL)
    with dm.use_backend("cpu"):
        mlp, x = MLP(8, 16), dm.randn(3, 8)
        before, layer = mlp(x).detach().numpy(), getattr(mlp, name)
        other = Doubled(layer.weight.shape[1], layer.weight.shape[0])
        other.weight, other.bias = layer.weight, layer.bias
        setattr(mlp, name, other)
        wanted = 2 * before if name == "proj" else mlp.proj(F.gelu(2 * layer(x))).detach().numpy()
        np.testing.assert_allclose(mlp(x).detach().numpy(), wanted, 1e-5, 1e-6)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_captured_step_that_joins_is_the_eager_one(backend: str, names: Names,
                                                     monkeypatch: pytest.MonkeyPatch) -> None:
    """Bit for bit, with dropout, clipping and AdamW; and near the step that does not join."""
    kernels = {"matmul_gelu", "matmul_gelu_backward", "matmul_sums"}

    def losses(capture: bool) -> list[float]:
        with dm.use_backend(backend):
            dm.manual_seed(5)
            model = GPT(GPTConfig(17, 8, 2, 2, 16, 0.1))
            tokens = dm.tensor(np.arange(16, dtype=np.int32).reshape(2, 8))
            step = training_step(model, optim.AdamW(model.parameters(), lr=1e-2))
            train: Any = dm.capture(step) if capture else step
            return [float(train(tokens, tokens).item()) for _ in range(5)]
    apart = losses(False)
    assert not kernels & {*names.found}
    join(monkeypatch, *ALL)
    joined = losses(False)
    assert kernels <= {*names.found}
    names.found.clear()
    assert losses(True) == joined
    assert kernels <= {*names.found}
    np.testing.assert_allclose(joined, apart, 1e-4)
    assert joined[-1] < 0.9 * joined[0]


@pytest.mark.parametrize("tile", TILES)
@pytest.mark.parametrize("ta", [0, 1])
def test_sums_on_tensor_cores_are_exact(tile: str, ta: int, names: Names) -> None:
    """Of small integers, whatever the order; rows and sums behind the edges are left alone."""
    (m, n), k, rng, backend = TILES[tile], 72, np.random.default_rng(0), runtime.get("cuda_on_cpu")
    m = m // 8 * 8 if ta else m  # a stored row is a multiple of 16 bytes
    a, b = rng.integers(-3, 4, (k, m) if ta else (m, k)), rng.integers(-3, 4, (k, n))
    given = (from_numpy(x.astype(dtypes.bfloat16.host), backend=backend) for x in (a, b))
    out, sums = run(matmul_sums, *given, M=m, N=n, K=k, ta=ta, tb=0)
    left = a.T if ta else a
    assert np.array_equal(sums.numpy().astype(int), left.sum(1))
    assert np.array_equal(out.numpy().astype(np.float32), (left @ b).astype(dtypes.bfloat16.host).astype(np.float32))
    assert names.stems == {"matmul.mma"}


@pytest.mark.parametrize("approximate", [0, 1])
@pytest.mark.parametrize("tile", TILES)
def test_gelu_on_tensor_cores(tile: str, approximate: int, names: Names) -> None:
    """Against the references in float32: of sums that are exact, so that what is left is GELU and one rounding."""
    (m, n), k, rng, backend = TILES[tile], 24, np.random.default_rng(0), runtime.get("cuda_on_cpu")
    a, b = rng.integers(-2, 3, (m, k)) / 8, rng.integers(-2, 3, (n, k)) / 4
    third = rng.integers(-4, 5, n) / 4, rng.integers(-12, 13, (m, n)) / 4
    sizes = {"M": m, "N": n, "K": k, "ta": 0, "tb": 1, "approximate": approximate}
    for kernel, last in zip((matmul_gelu, matmul_gelu_backward), third, strict=True):
        given = [x.astype(np.float32) for x in (a, b, last)]
        made = run(kernel, *(from_numpy(x.astype(dtypes.bfloat16.host), backend=backend) for x in given), **sizes)
        wanted = kernel(*given, **sizes)
        for got, want in zip(made, wanted, strict=True) if kernel is matmul_gelu else [(made, wanted)]:
            np.testing.assert_allclose(got.numpy().astype(np.float32), want, 2.0**-8, 1e-6)
    assert names.stems == {"matmul.mma"}


def test_under_autocast_layers_join_in_16_bits(names: Names, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many products as in float32, all but those of short sums on tensor cores; gradients stay near the others'."""
    with amp.autocast("bfloat16"):
        apart = passes("cuda_on_cpu", "tanh")
        join(monkeypatch, *ALL)
        names.found.clear()
        names.stems.clear()
        joined = passes("cuda_on_cpu", "tanh")
    for one, two in zip(joined, apart, strict=True):
        assert np.abs(one - two).max() < 0.02 * np.abs(two).max()
    assert names.found.count("matmul_sums") == 3
    assert {"matmul.mma", "cast_forward"} == names.stems
