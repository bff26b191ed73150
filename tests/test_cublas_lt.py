"""cuBLASLt's epilogues against NumPy, on a stand-in: descriptors, what is kept, errors, recording in a CUDA graph."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

import dualml as dm
from dualml import functional as F
from dualml.array import Array, from_numpy, run
from dualml.backends import cublas, cublas_lt, cuda
from dualml.config import config
from dualml.dtypes import as_dtype
from dualml.errors import BackendError
from dualml.ops import bias_gelu
from dualml.ops.matmul import gemm
from dualml.ops.matmul_epilogues import matmul_gelu, matmul_gelu_backward, matmul_sums
from tests.cublas_lt_stand_in import CublasLt
from tests.cuda_references import Reference, references_compute
from tests.cupy_stand_in import Device, put_in_place
from tests.parity.rules import error_ratio


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Device:
    return put_in_place(monkeypatch, tmp_path)


@pytest.fixture
def light(device: Device, monkeypatch: pytest.MonkeyPatch) -> CublasLt:
    made = CublasLt(device)
    monkeypatch.setattr(config, "cublaslt", True)
    monkeypatch.setattr(cublas, "_library",
                        lambda name, version: {"cublas": device.cuda.cublas, "cublasLt": made}[name])
    return made


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_a_product_and_its_bias_in_one_pass(device: Device, light: CublasLt, dtype: str) -> None:
    backend, rng, host = cuda.CudaBackend(), np.random.default_rng(0), as_dtype(dtype).host
    cases = list(itertools.product((False, True), (False, True), ((1, 1), (3, 3), (1, 3), (3, 1))))
    for ta, tb, (ba, bb) in cases:
        a = rng.standard_normal((ba, 7, 5) if ta else (ba, 5, 7)).astype(host)
        b = rng.standard_normal((bb, 6, 7) if tb else (bb, 7, 6)).astype(host)
        bias = rng.standard_normal(6).astype(host)
        arrays = [from_numpy(x, backend=backend) for x in (a, b, bias)]
        out = gemm(*arrays[:2], ta=ta, tb=tb, bias=arrays[2])
        wide = [x.astype(np.float32) for x in (a, b, bias)]
        expected = (wide[0].swapaxes(1, 2) if ta else wide[0]) @ (wide[1].swapaxes(1, 2) if tb else wide[1]) + wide[2]
        assert np.allclose(out.numpy().astype(np.float32), expected.astype(host).astype(np.float32),
                           1e-2 if dtype != "float32" else 1e-5, 1e-5)
    assert light.calls["matmul"] == len(cases)


EPILOGUES = {"gelu": matmul_gelu, "gelu_backward": matmul_gelu_backward, "sums": matmul_sums}


@pytest.mark.parametrize("name", EPILOGUES)
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_epilogues_against_the_kernels_references(device: Device, light: CublasLt, dtype: str, name: str) -> None:
    """All that is stored is compared. Operands that lie as no layer has them, and GELU in float32, are our kernels'
    work."""
    backend, kernel, host = cuda.CudaBackend(), EPILOGUES[name], as_dtype(dtype).host
    tanh = {"approximate": 1} if name != "sums" else {}
    rng, (m, n, k), ours = np.random.default_rng(1), (5, 16, 7), dtype == "float32" and name != "sums"
    layers = {"gelu": (0, 1), "gelu_backward": (0, 0), "sums": (1, 0)}
    for ta, tb in itertools.product((0, 1), (0, 1)):
        third = {"gelu": [(n,)], "gelu_backward": [(m, n)], "sums": []}[name]
        inputs = [rng.standard_normal(shape).astype(host)
                  for shape in ((k, m) if ta else (m, k), (n, k) if tb else (k, n), *third)]
        scalars = {"M": m, "N": n, "K": k, "ta": ta, "tb": tb} | tanh
        made = run(kernel, *(from_numpy(x, backend=backend) for x in inputs), **scalars)
        if ours or (ta, tb) != layers[name]:
            continue
        expected = kernel(*(x.astype(np.float32) for x in inputs), **scalars)
        one = name == "gelu_backward"
        near = (1e-5, 1e-5) if dtype == "float32" else (1e-2, 2e-2)
        for got, want in zip((made,) if one else made, (expected,) if one else expected, strict=True):
            assert np.allclose(got.numpy().astype(np.float32), want, *near)
    assert light.calls["matmul"] == (0 if ours else 1)
    assert len(device.launched) == (4 if ours else 3)


def test_what_it_cannot_do_is_our_kernels_work(device: Device, light: CublasLt) -> None:
    """Rows that begin anywhere, sides of one or none, GELU by erf; and sums have no such rows."""
    backend = cuda.CudaBackend()

    def ones(*shape: int) -> Array:
        return from_numpy(np.ones(shape, np.float16), backend=backend)

    for n, k, approximate in ((12, 2, 1), (16, 0, 1), (16, 1, 1), (16, 2, 0)):
        run(matmul_gelu, ones(4, k), ones(n, k), ones(n), M=4, N=n, K=k, ta=0, tb=1, approximate=approximate)
    for m, n, k in ((4, 16, 0), (1, 16, 2), (4, 1, 2)):
        run(matmul_sums, ones(k, m), ones(k, n), M=m, N=n, K=k, ta=1, tb=0)
    assert [name for name, *_ in device.launched] == ["matmul_gelu"] * 4 + ["matmul_sums"] * 3
    assert not light.calls
    run(matmul_sums, ones(2, 4), ones(2, 13), M=4, N=13, K=2, ta=1, tb=0)
    assert light.calls["matmul"] == 1


@pytest.mark.parametrize(("dtype", "products", "ours"), [
    ("float16", 5, 0),  # GELU, a bias, GELU's gradient, two with sums; dx alone is cuBLAS's
    ("float32", 2, 3)])  # a bias, one with sums; ours are GELU, its gradient, its bias's gradient
def test_a_layer_asks_for_what_the_backend_joins(device: Device, light: CublasLt, dtype: str, products: int, ours: int,
                                                 monkeypatch: pytest.MonkeyPatch) -> None:
    """GPT's MLP, forward and backward, by the parity suite's rule, and in float32 by a bound of its own."""
    rng, launched = np.random.default_rng(2), list[str]()
    shapes = {"x": (3, 8), "weight": (16, 8), "bias": (16,), "weight2": (8, 16), "bias2": (8,)}
    values = {name: rng.standard_normal(shape).astype(dtype) for name, shape in shapes.items()}
    dout = rng.standard_normal((3, 8)).astype(dtype)

    def passes(backend: str, dtype: str) -> list[np.ndarray]:
        tensors = [dm.tensor(v.astype(dtype), backend=backend, requires_grad=True) for v in values.values()]
        out = F.linear_gelu_linear(*tensors, approximate="tanh")
        out.backward(dm.tensor(dout.astype(dtype), backend=backend))
        return [out.detach().numpy(), *(t.grad.numpy() for t in tensors)]  # type: ignore[union-attr]
    compute = Reference.compute

    def noted(self: Reference, addresses: list[int], params: bytes) -> None:
        launched.append(self.kernel.name)
        compute(self, addresses, params)
    monkeypatch.setattr(Reference, "compute", noted)
    with references_compute(monkeypatch) as backend:
        found = passes(backend.name, dtype)
    assert (light.calls["matmul"], len(launched)) == (products, ours), launched
    for got, numpy, exact in zip(found, passes("cpu", dtype), passes("cpu", "float64"), strict=True):
        assert error_ratio(got, numpy, exact, dtype, "cuda") <= 1
        if dtype == "float32":
            assert np.allclose(got, numpy, 1e-4, 1e-5)


def test_what_a_backend_joins(device: Device, light: CublasLt, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = cuda.CudaBackend()

    def joined(dtype: dm.DType) -> set[str]:
        return {what for what in ("sums", "gelu_tanh", "gelu") if backend.joins(what, dtype)}
    assert joined(dm.bfloat16) == joined(dm.float16) == {"sums", "gelu_tanh"}
    assert joined(dm.float32) == {"sums"}
    monkeypatch.setattr(config, "cublaslt", False)
    assert not joined(dm.bfloat16)
    monkeypatch.setattr(backend, "vendor", False)
    assert joined(dm.bfloat16) == joined(dm.float32) == {"sums", "gelu_tanh", "gelu"}


def _with_bias(backend: cuda.CudaBackend, m: int, k: int) -> np.ndarray:
    made: np.ndarray = gemm(from_numpy(np.ones((1, m, k), np.float32), backend=backend),
                            from_numpy(np.ones((1, k, 4), np.float32), backend=backend),
                            bias=from_numpy(np.arange(4, dtype=np.float32), backend=backend)).numpy()
    return made


def test_without_products_or_bias_cublas_does_it(device: Device, light: CublasLt) -> None:
    backend = cuda.CudaBackend()
    assert np.array_equal(_with_bias(backend, 3, 0), [[[0, 1, 2, 3]] * 3])
    x = from_numpy(np.ones((1, 3, 4), np.float32), backend=backend)
    assert np.array_equal(gemm(x, x, tb=True).numpy(), [[[4] * 3] * 3])
    assert not light.calls


def test_descriptors_are_kept_for_the_same_sizes_and_let_go(
        device: Device, light: CublasLt, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cublas_lt, "_MOST_PLANS", 2)
    backend = cuda.CudaBackend()
    for _ in range(3):
        assert np.array_equal(_with_bias(backend, 3, 2), [[[2, 3, 4, 5]] * 3])
    assert light.calls == {"create": 5, "heuristic": 1, "matmul": 3}
    for m in range(4, 10):
        _with_bias(backend, m, 2)
    assert light.calls["heuristic"] == 7
    assert len(light.things) == 2 * 5


def test_each_alignment_has_its_own_algorithm(device: Device, light: CublasLt) -> None:
    backend = cuda.CudaBackend()
    x = from_numpy(np.ones((1, 4, 4), np.float32), backend=backend)
    shelf = from_numpy(np.arange(68, dtype=np.float32), backend=backend)
    for start in (0, 4, 64, 5):
        made = gemm(x, x, bias=Array(shelf.buffer, (4,), shelf.dtype, start)).numpy()
        assert np.array_equal(made[0, 0], np.arange(start, start + 4) + 4)
    assert light.calls["heuristic"] == 3  # 256, 16 and 4 bytes


def test_refusals(device: Device, light: CublasLt) -> None:
    backend = cuda.CudaBackend()
    for found, state in ((0, 0), (1, 15)):
        light.found, light.state = found, state
        with pytest.raises(BackendError, match=r"no way to make a product of 4 x 2 and 2 x 3 .*Unset DUALML_CUBLASLT"):
            _with_bias(backend, 3, 2)
    light.state, light.status = 0, 13
    with pytest.raises(BackendError, match=r"cublasLtMatmul answered with status 13 .*Unset DUALML_CUBLASLT"):
        _with_bias(backend, 3, 2)


def test_recorded_in_a_graph(device: Device, light: CublasLt) -> None:
    backend = cuda.CudaBackend()
    x = from_numpy(np.ones((1, 4, 4), np.float32), backend=backend)
    biases = [from_numpy(np.full(4, v, np.float32), backend=backend) for v in (1, 2)]
    outs = [gemm(x, x, bias=bias) for bias in biases]
    backend.stream.begin_capture()
    for bias, out in zip(biases, outs, strict=True):
        gemm(x, x, bias=bias, out=out)
    graph = backend.stream.end_capture()
    for out in outs:
        backend.write(out.buffer, 0, np.zeros((1, 4, 4), np.float32))
    graph.launch(backend.stream)
    assert [float(out.numpy()[0, 0, 0]) for out in outs] == [5, 6], "each launch keeps its own bias"


def test_recorded_with_aux_and_sums(device: Device, light: CublasLt) -> None:
    """Two launches of one plan, each with vectors and matrices of its own."""
    backend, sizes = cuda.CudaBackend(), {"M": 8, "N": 8, "K": 8}

    def given(*values: float) -> list[Array]:
        return [from_numpy(np.full((8, 8), v, np.float16), backend=backend) for v in values]

    x, (low, high) = given(1)[0], given(0.5, 1)
    outs = given(0, 0, 0, 0)
    sums = [from_numpy(np.zeros(8, np.float16), backend=backend) for _ in range(2)]
    run(matmul_sums, x, x, **sizes, ta=1, tb=0)
    run(matmul_gelu_backward, x, x, x, **sizes, ta=0, tb=0, approximate=1)
    backend.stream.begin_capture()
    for pre, a, out, other, total in zip((low, high), (low, high), outs[:2], outs[2:], sums, strict=True):
        run(matmul_gelu_backward, x, x, pre, out=(out,), **sizes, ta=0, tb=0, approximate=1)
        run(matmul_sums, a, x, out=(other, total), **sizes, ta=1, tb=0)
    graph = backend.stream.end_capture()
    graph.launch(backend.stream)
    slopes = [8 * bias_gelu.gelu_slope(np.array([v], np.float32), 1)[0] for v in (0.5, 1)]
    assert np.allclose([out.numpy()[0, 0] for out in outs[:2]], slopes, 2**-11)
    assert [float(total.numpy()[0]) for total in sums] == [4, 8]
    assert [float(other.numpy()[0, 0]) for other in outs[2:]] == [4, 8]
    assert light.calls["heuristic"] == 2


def test_it_may_be_asked_for_later(device: Device, light: CublasLt, monkeypatch: pytest.MonkeyPatch) -> None:
    """After cuBLAS's handle was made, and be left again."""
    monkeypatch.setattr(config, "cublaslt", False)
    backend = cuda.CudaBackend()
    for asked, calls in ((False, 0), (True, 1), (False, 1)):
        monkeypatch.setattr(config, "cublaslt", asked)
        assert np.array_equal(_with_bias(backend, 3, 2), [[[2, 3, 4, 5]] * 3])
        assert light.calls["matmul"] == calls
