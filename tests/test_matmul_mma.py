"""The matmul kernel on tensor cores (cuda/matmul.mma.cu), on the CPU test device."""

from __future__ import annotations

from itertools import product
from typing import Any
from unittest import mock

import numpy as np
import pytest

from dualml import dtypes, runtime
from dualml.array import from_numpy
from dualml.kernel import DeviceInfo
from dualml.ops.matmul import gemm, matmul

STORED = list(product((False, True), repeat=2))
TILES = {(128, 128): (133, 144), (64, 64): (50, 56), (32, 128): (27, 136)}  # and sizes that lead to them


def _stem(device: DeviceInfo, dtype: dtypes.DType, **dims: int) -> str:
    fit = [v for v in matmul.variants if v.backend == "cuda" and dtype in v.dtypes and v.when(device, dims)]
    sizes = dict(fit[0].constants) if fit else {}
    return f"{fit[0].name} {sizes['ROWS']}x{sizes['COLS']}" if fit else "plain"


def _product(a: np.ndarray, b: np.ndarray, bias: np.ndarray | None, dtype: dtypes.DType,
             orders: tuple[int, ...] = (0,), **stored: bool) -> tuple[np.ndarray, dict[str, Any]]:
    """On the test device: the result, and the constants of the source that made it."""
    backend: Any = runtime.get("cuda_on_cpu")
    seen: list[dict[str, Any]] = []

    class Hook:
        def before(self, launch: runtime.Launch) -> None:
            seen.append({"stem": launch.spec.stem, **dict(launch.spec.constants)})

        def after(self, launch: runtime.Launch) -> None: ...

    hook = Hook()
    runtime.hooks.append(hook)
    try:
        with mock.patch.object(backend, "orders", orders):
            x, y, *rest = (from_numpy(v.astype(dtype.host), backend=backend) for v in (a, b, bias) if v is not None)
            made = gemm(x, y, bias=rest[0] if rest else None, **stored).numpy().astype(np.float64)
    finally:
        runtime.hooks.remove(hook)
    assert len(seen) == 1
    return made, seen[0]


def _stored(rng: np.random.Generator, shape: tuple[int, int, int], turned: bool) -> np.ndarray:
    """Small integers, whose products every order of summation gives exactly."""
    made = rng.integers(-3, 4, shape).astype(np.float32)
    return np.ascontiguousarray(made.swapaxes(1, 2)) if turned else made


@pytest.mark.parametrize("tile", TILES, ids=str)
@pytest.mark.parametrize(("ta", "tb"), STORED)
@pytest.mark.parametrize("dtype", [dtypes.float16, dtypes.bfloat16], ids=lambda d: d.name)
def test_products_are_exact(tile: tuple[int, int], ta: bool, tb: bool, dtype: dtypes.DType) -> None:
    """Odd sizes where the alignment of stored rows leaves them; all orders of threads, which must leave equal bits."""
    m, n = TILES[tile]
    m, n = (m + 7) // 8 * 8 if ta else m, n if not tb else n - 3
    for batches, k in (((2, 1), 72), ((1, 2), 8), ((1, 1), 200)):
        k += 5 * (ta and not tb)  # then it may be odd too
        rng = np.random.default_rng(k)
        a, b = _stored(rng, (batches[0], m, k), ta), _stored(rng, (batches[1], k, n), tb)
        bias = rng.integers(-3, 4, n).astype(np.float32) if k % 16 else None
        made, source = _product(a, b, bias, dtype, (0, 1, 2, 3) if k < 100 else (0,), ta=ta, tb=tb)
        assert source["stem"] == "matmul.mma"
        assert (source["ROWS"], source["COLS"]) == tile
        right = np.matmul(a.swapaxes(1, 2) if ta else a, b.swapaxes(1, 2) if tb else b) + (0 if bias is None else bias)
        assert np.array_equal(made, right.astype(dtype.host).astype(np.float64))


@pytest.mark.parametrize("dtype", [dtypes.float16, dtypes.bfloat16], ids=lambda d: d.name)
@pytest.mark.parametrize(("ta", "tb"), STORED)
def test_error_is_the_plain_kernels(ta: bool, tb: bool, dtype: dtypes.DType) -> None:
    """Of root mean squares: both sum in float32 and round once, so that seldom an element differs at all."""
    rng = np.random.default_rng(3)
    a, b = (rng.standard_normal(s).astype(dtype.host).astype(np.float32)
            for s in ((1, 1000, 40) if ta else (1, 40, 1000), (1, 72, 1000) if tb else (1, 1000, 72)))
    bias = rng.standard_normal(72).astype(dtype.host).astype(np.float32)
    exact = np.matmul(*(x.astype(np.float64) for x in (a.swapaxes(1, 2) if ta else a, b.swapaxes(1, 2) if tb else b)))
    exact += bias
    mine, source = _product(a, b, bias, dtype, ta=ta, tb=tb)
    assert source["stem"] == "matmul.mma"
    with mock.patch.multiple(matmul, variants=[], made={}):
        plain, source = _product(a, b, bias, dtype, ta=ta, tb=tb)
    assert source["stem"] == "matmul"
    error, its = (np.sqrt(np.mean((x - exact) ** 2)) for x in (mine, plain))
    assert error <= 1.001 * its, f"{error / its:.4f} times the plain kernel's error"
    assert np.mean(mine != plain) < 0.01


@pytest.mark.parametrize(("dims", "dtype", "arch", "stem"), [
    ({}, dtypes.bfloat16, 80, "mma 128x128"), ({}, dtypes.float16, 90, "mma 128x128"),
    ({}, dtypes.float32, 90, "plain"), ({}, dtypes.bfloat16, 75, "plain"),
    ({"Q": 388}, dtypes.bfloat16, 90, "plain"), ({"S": 1148}, dtypes.bfloat16, 90, "plain"),
    ({"M": 1}, dtypes.bfloat16, 90, "mma 64x64"), ({"M": 32, "N": 50304}, dtypes.bfloat16, 90, "mma 32x128")])
def test_who_gets_the_tensor_cores(dims: dict[str, int], dtype: dtypes.DType, arch: int, stem: str) -> None:
    device = DeviceInfo("cuda", "some", arch=arch, limits={"multiprocessors": 132})
    sizes = {"M": 16384, "N": 1152, "B": 1, "Q": 384, "S": 384} | dims
    assert _stem(device, dtype, **sizes) == stem
