"""Every kernel in three languages: sources that pair, and the contract that declarations are held to."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import dualml as dm
from dualml import runtime
from dualml.array import empty, from_numpy, run
from dualml.backends.sources import folder
from dualml.dtypes import float16, float32, int32
from dualml.errors import BackendError, DTypeError, KernelError, ShapeError
from dualml.kernel import KERNELS, MAX_TENSORS, Kernel, drop_oldest, make_kernel
from dualml.ops.numpy_math import compile_expression
from tests.parity.outcomes import TESTED_OPS

TEMPLATE = "{{ spec.kernel.name }}"
COUNTING = {"embedding_order.cu", "sampling.cuh", "topk_forward.cu"}  # integers, whose sums need no order
SOURCES = {k.source for k in KERNELS.values()} | {"elementwise", "fused"}
VARIANTS = {(v.backend, f"{k.source}.{v.name}") for k in KERNELS.values() for v in k.variants}


def _stems(name: str, ending: str) -> set[str]:
    return {p.name.removesuffix(ending) for p in folder(name).glob(f"*{ending}")}


def _whole(name: str) -> str:
    """A shader with what it includes."""
    text = (folder("shaders") / name).read_text(encoding="utf-8")
    return text + "".join(_whole(included) for included in re.findall(r'{%-? include "([^"]+)"', text))


def test_every_kernel_has_both_twins_and_no_source_is_an_orphan() -> None:
    assert TESTED_OPS, "ops are loaded"
    for name, ending, backend in (("shaders", ".wgsl", "webgpu"), ("cuda", ".cu", "cuda")):
        wanted = SOURCES | {stem for where, stem in VARIANTS if where == backend}
        assert wanted - _stems(name, ending) == set(), f"missing in {name}/"
        assert _stems(name, ending) - wanted == set(), f"{name}/ has sources that no kernel names"


@pytest.mark.parametrize("kernel", KERNELS.values(), ids=lambda k: k.name)
def test_entry_points_have_the_kernels_name(kernel: Kernel) -> None:
    stems = [kernel.source] + [f"{kernel.source}.{v.name}" for v in kernel.variants if v.backend == "webgpu"]
    for stem in stems:
        names = re.findall(r"@compute\s+@workgroup_size\([^)]*\)\s*fn\s+({{.*?}}|\w+)", _whole(f"{stem}.wgsl"))
        shared = sum(k.source == kernel.source for k in KERNELS.values()) > 1 or kernel.source != kernel.name
        assert names == [TEMPLATE if shared else kernel.name], f"shaders/{stem}.wgsl has {names}"
    text = (folder("cuda") / f"{kernel.source}.cu").read_text(encoding="utf-8")
    assert len(re.findall(r"^KERNEL\b", text, re.MULTILINE)) == 1, f"cuda/{kernel.source}.cu must have one KERNEL"


@pytest.mark.parametrize("path", sorted(folder("shaders").rglob("*.wgsl")), ids=lambda p: p.name)
def test_wgsl_is_what_browsers_take(path: Path) -> None:
    text = re.sub(r"(?s)//[^\n]*|{[%#].*?[%#]}", "", path.read_text(encoding="utf-8"))
    if path.name.count(".") == 1 and path.parent.name != "lib":
        assert "subgroup" not in text, "a kernel's plain source must run without subgroups; make a variant"
    assert not re.search(r"atomic<\s*f32", text), "results must not depend on the order of additions"
    assert not re.search(r"bitcast<f32>\(0x[7fF]f8", text), "browsers refuse infinity and NaN as constants"
    assert "f64" not in text


@pytest.mark.parametrize("path", sorted(folder("cuda").rglob("*.cu*")), ids=lambda p: p.name)
def test_cuda_computes_in_float(path: Path) -> None:
    text = re.sub(r'//.*|"[^"]*"|{[{%#].*?[}%#]}', "", path.read_text(encoding="utf-8"))
    doubles = re.findall(r"(?<![\w.])\d+\.\d*(?:[eE][-+]?\d+)?(?![\w.])", text)
    assert not doubles, f"literals without f are doubles: {doubles}"
    assert not re.search(r"\bdouble\b|<math\.h>|<cmath>", text)
    assert "atomicAdd" not in text or path.name in COUNTING, "results must not depend on the order of additions"


def test_no_kernel_is_larger_than_a_browser_binds() -> None:
    assert all(len(k.args) <= MAX_TENSORS for k in KERNELS.values())


# ---- the declaration ------------------------------------------------------------------------------------------------

def _double(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return x + y


DOUBLE = make_kernel(_double, "x[N,C] y[N,C] -> out[N,C]", name="double", groups="N")


def test_shapes_are_checked_by_name() -> None:
    x, y = (empty(s, float32, runtime.get("cpu")) for s in ((2, 3), (2, 4)))
    with pytest.raises(ShapeError, match=r"\[double\] y must be \[N,C\] with C=3 \(from x\), got shape \(2, 4\)"):
        run(DOUBLE, x, y)
    with pytest.raises(ShapeError, match=r"\[double\] y must be \[N,C\], got shape \(6,\)"):
        run(DOUBLE, x, x.reshape(6))


def test_dtypes_are_checked_by_letter() -> None:
    cpu = runtime.get("cpu")
    with pytest.raises(DTypeError, match=r"\[double\] y must be float32, got float16. Cast it with .to\(float32\)"):
        run(DOUBLE, empty((2, 3), float32, cpu), empty((2, 3), float16, cpu))
    with pytest.raises(DTypeError, match=r"\[double\] x must be floating, got int32"):
        run(DOUBLE, empty((2, 3), int32, cpu), empty((2, 3), int32, cpu))


def test_one_backend_per_launch() -> None:
    names = [n for n in ("cpu", "webgpu", "cuda_on_cpu") if n in runtime.backend_names()]
    x, y = (from_numpy(np.zeros((2, 3), np.float32), backend=runtime.get(n)) for n in names[:2])
    with pytest.raises(BackendError, match="all tensors must be on one backend, got cpu and webgpu"):
        run(DOUBLE, x, y)


@pytest.mark.parametrize(("signature", "message"), [
    ("x[N] oops -> out[N]", "cannot read the signature near 'oops'"),
    (" ".join(f"x{i}[N]" for i in range(9)), "has 9 tensors; WebGPU binds at most 8"),
])
def test_signatures_that_cannot_be_read(signature: str, message: str) -> None:
    with pytest.raises(KernelError, match=message):
        make_kernel(_double, signature, name="bad", groups="N")


def test_static_names_must_exist() -> None:
    with pytest.raises(KernelError, match=r"static names \['D'\] are not in the signature"):
        make_kernel(_double, "x[N] -> out[N]", name="bad", groups="N", static="D")


def test_vectors_where_the_last_dimension_divides_by_four() -> None:
    made = make_kernel(_double, "x[N,Q] y[S] -> out[N,Q]", name="v", groups="N", vector="Q, S")
    assert made.vectors({"N": 3, "Q": 8, "S": 12}) == (frozenset("QS"), 4)
    assert made.vectors({"N": 4, "Q": 8, "S": 3}) == (frozenset("Q"), 1)
    together = make_kernel(_double, "x[N,Q] y[S] -> out[N,Q]", name="v", groups="N", vector="Q S")
    assert together.vectors({"N": 4, "Q": 8, "S": 3}) == (frozenset(), 1)


def test_programs_of_ever_new_sizes_are_let_go(cpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
    from dualml.ops.strided import strided_copy
    monkeypatch.setattr(runtime, "_MOST_PROGRAMS", 4)
    monkeypatch.setattr(strided_copy, "made", {})
    for size in range(2, 12):
        assert (dm.ones(3, size) + dm.ones(3, 1)).sum().item() == 6 * size
        assert dm.ones(5, size)[::2].sum().item() == 3 * size
    assert 0 < len(strided_copy.made["cpu"].specs) <= 4


def test_what_is_kept_is_let_go_while_other_threads_add_to_it() -> None:
    class Busy(dict[int, int]):
        """Grows between the moments in which its first key is asked for."""

        def __iter__(self) -> Iterator[int]:
            found = super().__iter__()
            self[len(self)] = 0
            return found

    kept, busy = {1: 1, 0: 0}, Busy({0: 0})
    drop_oldest(kept)
    drop_oldest(busy)
    drop_oldest({})
    assert kept == {0: 0}
    assert busy == {0: 0, 1: 0}


def test_an_expression_without_arrays_is_one_number() -> None:
    """However large the arrays that it does not use are: those are worked through in blocks."""
    evaluate = compile_expression("1.0f")
    for size in (5, 3_000_000):
        assert evaluate({"a": np.ones(size, np.float32)}) == 1.0
