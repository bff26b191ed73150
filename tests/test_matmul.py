"""Every variant of the matmul kernel at odd sizes; the parity suite sees only those its sizes and devices choose."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from dualml import runtime
from dualml.array import from_numpy
from dualml.kernel import Variant
from dualml.ops.matmul import gemm, matmul

SHAPES = {"subgroup": ((67, 37, 13), (64, 36, 8), (3, 4, 4)), "register": ((67, 37, 13), (16, 68, 8)),
          "vector": ((1, 37, 40), (1, 36, 4))}


@pytest.mark.parametrize("variant", [pytest.param(v, id=f"{v.name}-{dict(v.constants)['ROWS']}")
                                     for v in matmul.variants if v.backend == "webgpu"])
def test_variant(variant: Variant, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = runtime.get("webgpu")
    if not variant.block and not backend.device.subgroup_size:
        pytest.skip("the device has no subgroups")
    monkeypatch.setattr(matmul, "variants", [replace(variant, when=lambda device, dims: True)])
    monkeypatch.setattr(matmul, "made", {})
    rng = np.random.default_rng(0)
    for m, n, k in SHAPES[variant.name]:
        for ta, tb in ((False, True),) if variant.name == "vector" else ((False, False), (False, True), (True, False)):
            a = rng.standard_normal((2, k, m) if ta else (2, m, k), np.float32)
            b = rng.standard_normal((1, n, k) if tb else (1, k, n), np.float32)
            bias = rng.standard_normal(n, np.float32)
            made = gemm(*[from_numpy(x, backend=backend) for x in (a, b)], ta=ta, tb=tb,
                        bias=from_numpy(bias, backend=backend)).numpy()
            want = np.matmul(a.swapaxes(1, 2) if ta else a, b.swapaxes(1, 2) if tb else b) + bias
            np.testing.assert_allclose(made, want, rtol=1e-5, atol=1e-5)
