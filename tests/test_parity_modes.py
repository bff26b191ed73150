"""The parity suite's mode for our own products on CUDA, which runs where a device is: seen here through a stand-in."""

from __future__ import annotations

import runpy
from dataclasses import replace
from pathlib import Path

import pytest

from dualml import runtime
from dualml.backends.cuda import CudaBackend
from dualml.dtypes import as_dtype
from dualml.kernel import Spec
from tests.cuda_references import Reference
from tests.cupy_stand_in import Device, put_in_place
from tests.parity import modes, report
from tests.parity.outcomes import TESTED_OPS, cases_of, kernel_cases, run_op
from tests.test_parity import _each, test_op as check_op

OWN = next(m for m in modes.MODES if m.backend == "cuda_own")


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Device:
    return put_in_place(monkeypatch, tmp_path)


def test_where_a_device_is_products_run_both_ways(monkeypatch: pytest.MonkeyPatch) -> None:
    """And nothing else does: the rest would only take its time a second time."""
    monkeypatch.setattr(modes, "PRESENT", ("cpu", "cuda"))
    here = tuple(m for m in modes.MODES if modes._useful(m))
    assert [m.name for m in here] == ["cpu", "cuda", "cuda without cuBLAS"]
    for names, least in ((TESTED_OPS, {"matmul", "linear"}), (kernel_cases(), {"matmul_pair"})):
        found = [p.values for p in _each(names, here).args[1]]
        own = {name for name, mode, _ in found if mode is OWN}
        assert least <= own < {name for name, *_ in found}
        assert [(n, d) for n, m, d in found if m is OWN] == [(n, d) for n, m, d in found
                                                             if m.name == "cuda" and n in own]
    monkeypatch.setattr(modes, "PRESENT", ("cpu", "webgpu", "cuda_on_cpu"))
    assert not modes._useful(OWN)


@pytest.mark.parametrize("dtype", OWN.dtypes)
def test_cublas_has_no_part_in_it(device: Device, dtype: str) -> None:
    stems: set[str] = set()

    class Hook:
        def before(self, launch: runtime.Launch) -> None:
            stems.add(launch.spec.stem)

        def after(self, launch: runtime.Launch) -> None: ...

    cases = [c for c in cases_of("matmul") if dtype in c.dtypes]
    hook = Hook()
    runtime.hooks.append(hook)
    try:
        for case in cases:
            run_op(TESTED_OPS["matmul"], case, as_dtype(dtype), modes.OwnProducts())
    finally:
        runtime.hooks.remove(hook)
    assert not device.cuda.cublas.calls
    assert "matmul" in {name for name, *_ in device.launched}
    assert ("matmul.mma" in stems) == (dtype != "float32")
    run_op(TESTED_OPS["matmul"], cases[0], as_dtype(dtype), CudaBackend())
    assert device.cuda.cublas.calls, "the mode cuda, which this one is beside"


@pytest.mark.parametrize("right", [True, False])
def test_its_products_are_judged(device: Device, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, right: bool) -> None:
    """By their references in place of kernels, or by ones that are off by a hundredth."""
    def program(backend: CudaBackend, spec: Spec) -> Reference:
        made = Reference(spec)
        if not right:
            made.kernel = replace(spec.kernel, reference=lambda *x, **n: 1.01 * spec.kernel.reference(*x, **n))
        return made

    monkeypatch.setattr(modes.OwnProducts, "build", program)
    monkeypatch.setitem(runtime._open, OWN.backend, modes.OwnProducts())
    monkeypatch.setattr(report, "FOLDER", tmp_path / "parity")
    if right:
        check_op("matmul", OWN, "float32")
    else:
        with pytest.raises(pytest.fail.Exception, match="times the allowed error"):
            check_op("matmul", OWN, "float32")
    (result,) = report.read_all()
    assert (result.op, result.mode, result.failed) == ("matmul", OWN.name, not right)
    page = runpy.run_path(str(Path(__file__).resolve().parents[1] / "scripts" / "write_docs.py"))["parity"]
    assert "cuda without cuBLAS f32" in page([result])
    assert "cuBLAS" not in page([report.Result("matmul", "cuda", "float32", "some")])
