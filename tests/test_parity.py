"""The generated suite: every op, in every mode and dtype, forward and backward. See tests/parity/ for its rules."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

import numpy as np
import pytest

from dualml import dtypes, runtime
from dualml.dtypes import BY_SHORT, DType, as_dtype
from dualml.errors import DTypeError
from dualml.kernel import KERNELS, Kernel
from dualml.ops.base import Op
from tests.parity.modes import BACKENDS, MISSING, REQUIRED, TESTED, GuardedWebGpu, Mode, is_product
from tests.parity.outcomes import (
    TESTED_OPS as OPS,
    Outcome,
    cases_of,
    kernel_cases,
    of_16_bits,
    references,
    rng_of,
    run_kernel,
    run_op,
)
from tests.parity.report import Result
from tests.parity.rules import error_ratio

CHECKED_DIRECTLY = sorted(kernel_cases())


def _each(names: Iterable[str], modes: tuple[Mode, ...] = TESTED, dtypes_too: bool = True) -> pytest.MarkDecorator:
    """A test per name, mode and dtype; those of one name stay in one worker, which keeps its references."""
    found = [pytest.param(name, mode, dtype, id=f"{name}-{mode.name}-{dtype}", marks=pytest.mark.xdist_group(name))
             for name in names for mode in modes if mode.runs(name)
             for dtype in (mode.dtypes if dtypes_too else mode.dtypes[:1])]
    return pytest.mark.parametrize(("name", "mode", "dtype"), found)


def _result(name: str, mode: Mode, dtype: str) -> Result:
    device = runtime.get(mode.backend).device
    return Result(name, mode.name, dtype, f"{device.name}, {device.driver}")


def _judge(label: str, mode: Mode, dtype: str, make: Callable[[], Outcome], numpy: Outcome, exact: Outcome,
           result: Result) -> list[str]:
    """Problems of one case: an error too large, a dtype or shape that differs, other bits the second time."""
    problems = []
    got = make()
    rows = list(zip(got.named(), numpy.named(), exact.named(), strict=False))
    if not [n for n, _ in got.named()] == [n for n, _ in numpy.named()] == [n for n, _ in exact.named()]:
        return [f"{label}: gives {[n for n, _ in got.named()]}, the reference {[n for n, _ in exact.named()]}"]
    for (what, here), (_, there), (_, right) in rows:
        if here.dtype != there.dtype or here.shape != there.shape:
            problems.append(f"{label}: {what} is {here.dtype}{here.shape}, must be {there.dtype}{there.shape}")
            continue
        ratio = error_ratio(here, there, right, dtype, mode.of)
        result.worst = max(result.worst, ratio)
        if ratio > 1:
            problems.append(f"{label}: {what} of shape {here.shape} has {ratio:.3g} times the allowed error")
    again = make()
    problems += [f"{label}: {what} has other bits the second time" for (what, one), (_, two)
                 in zip(got.named(), again.named(), strict=True) if one.tobytes() != two.tobytes()]
    return problems


def _run_all(name: str, mode: Mode, dtype: str, cases: list[tuple[str, Callable[[], list[str]]]],
             result: Result) -> None:
    backend = runtime.get(mode.backend)
    problems = []
    for label, check in cases:
        try:
            problems += check()
        except Exception as error:  # all cases are told, not the first alone
            problems.append(f"{label}: {type(error).__name__}: {error}")
        if isinstance(backend, GuardedWebGpu):
            problems += [f"{label}: wrote {overrun}" for overrun in backend.overruns()]
        result.cases += 1
    result.failed = bool(problems)
    result.write()
    if problems:
        pytest.fail(f"{name} on {mode.name} in {dtype}:\n  " + "\n  ".join(problems), pytrace=False)


def _refused(mode: Mode, tested: DType, attempt: Callable[[], object], result: Result) -> bool:
    """Where the device lacks the dtype, the refusal must name it."""
    backend = runtime.get(mode.backend)
    if tested in backend.dtypes:
        return False
    with pytest.raises(DTypeError, match=tested.name) as caught:
        attempt()
    result.unsupported = str(caught.value)
    result.write()
    return True


@pytest.mark.parametrize("name", [n for n in BACKENDS if n in REQUIRED or not REQUIRED])
def test_backend_is_there(name: str) -> None:
    """A missing backend counts as a skip; where DUALML_REQUIRE names it, as a failure."""
    if name in MISSING:
        (pytest.fail if name in REQUIRED else pytest.skip)(MISSING[name])


@_each(OPS)
def test_op(name: str, mode: Mode, dtype: str) -> None:
    tested, backend, result = as_dtype(dtype), runtime.get(mode.backend), _result(name, mode, dtype)
    kind, all_cases = OPS[name], cases_of(name)
    chosen = [i for i, c in enumerate(all_cases) if dtype in c.dtypes]
    if dtype != "float32" and mode.backend == "cuda_on_cpu":
        chosen = of_16_bits(all_cases, dtype)
    floating = [i for i in chosen if any(x is not None and x.dtype.kind == "f" for x in all_cases[i].inputs)]
    if floating and _refused(mode, tested, lambda: run_op(kind, all_cases[floating[0]], tested, backend), result):
        return
    cases = []
    for index in chosen:
        case = all_cases[index]

        def check(index: int = index, label: str = case.name) -> list[str]:
            exact, numpy = references(name, index, dtype)
            make = partial(run_op, kind, all_cases[index], tested, backend)
            return _judge(label, mode, dtype, make, numpy, exact, result)
        cases.append((case.name, check))
    _run_all(name, mode, dtype, cases, result)


def _floating(kernel: Kernel) -> bool:
    return any(a.type not in BY_SHORT and "f" in kernel.kinds.get(a.type, "f") for a in kernel.args)


@_each(CHECKED_DIRECTLY)
def test_kernel(name: str, mode: Mode, dtype: str) -> None:
    tested, backend, result = as_dtype(dtype), runtime.get(mode.backend), _result(f"{name} (kernel)", mode, dtype)
    cpu, all_cases = runtime.get("cpu"), kernel_cases()[name]
    if dtype != "float32" and not _floating(all_cases[0][0]):
        return
    if _refused(mode, tested, lambda: run_kernel(all_cases[0], tested, backend), result):
        return
    cases = []
    for index, case in enumerate(all_cases):
        def check(case=case, label: str = f"case {index}") -> list[str]:
            exact, numpy = run_kernel(case, tested, cpu, dtypes.float64), run_kernel(case, tested, cpu)
            return _judge(label, mode, dtype, lambda: run_kernel(case, tested, backend), numpy, exact, result)
        cases.append((f"case {index}", check))
    _run_all(name, mode, dtype, cases, result)


# ---- the rules of the op contract ---------------------------------------------------------------------------------

def _differentiable(name: str) -> bool:
    return OPS[name].backward is not Op.backward and any(c.differentiable for c in cases_of(name))


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.xdist_group(n)) for n in OPS
                                  if _differentiable(n)])
def test_gradient_rule(name: str) -> None:
    """The gradient of sum(output * seed) along random directions, against central differences in float64."""
    kind, cpu, step, rng = OPS[name], runtime.get("cpu"), 1e-6, rng_of(f"{name} directions")
    for case in cases_of(name):
        if not case.differentiable:
            continue
        base = run_op(kind, case, dtypes.float64, cpu)
        seeds = np.random.default_rng(1)
        weights = [seeds.standard_normal(o.shape) for o in base.outputs]

        def value(inputs, case=case, weights=weights) -> float:
            moved = type(case)(case.name, inputs, case.options)
            outputs = run_op(kind, moved, dtypes.float64, cpu).outputs
            return sum(float((o * w).sum()) for o, w in zip(outputs, weights, strict=True) if o.dtype.kind == "f")

        for place, x in enumerate(case.inputs):
            if x is None or x.dtype.kind != "f" or not x.size or place in kind.constant:
                continue
            found = base.gradients[place]
            found = np.zeros(x.shape) if found is None else found
            for _ in range(3):
                direction = rng.standard_normal(x.shape)
                sides = [value((*case.inputs[:place], x + s * direction, *case.inputs[place + 1:]))
                         for s in (step, -step)]
                want, got = (sides[0] - sides[1]) / (2 * step), float((found * direction).sum())
                size = np.abs(found * direction).sum()
                noise = 1e-8 * sum(np.abs(o * w).sum() for o, w in zip(base.outputs, weights, strict=True)
                                   if o.dtype.kind == "f")
                assert abs(got - want) <= 1e-5 * size + noise, \
                    f"{name}, {case.name}, input {place}: gradient {got:.9g}, finite difference {want:.9g}"


@_each([n for n in OPS if OPS[n].backward is not Op.backward],
       tuple(m for m in TESTED if m.name in ("cpu", "webgpu", "cuda_on_cpu", "cuda")), dtypes_too=False)
def test_gradients_asked_for_in_other_ways(name: str, mode: Mode, dtype: str) -> None:
    """Written into an optimizer's memory, for one input alone, for one output alone: the same numbers."""
    kind, backend, tested = OPS[name], runtime.get(mode.backend), as_dtype(dtype)
    for index, case in list(enumerate(cases_of(name)))[:4]:
        if dtype not in case.dtypes:
            continue
        whole = references(name, index, dtype)[1]

        def same(got: Outcome, want: Outcome, places: list[int], how: str, case=case) -> None:
            for i in places:
                here, there = got.gradients[i], want.gradients[i]
                assert (here is None) == (there is None), f"{name}, {case.name}: gradient {i} {how} is {here}"
                if here is not None:
                    np.testing.assert_allclose(here, there, 1e-3, 1e-3 * max(1e-30, np.abs(there).max(initial=0)),
                                               err_msg=f"{name}, {case.name}, gradient {i}, {how}")

        floats = [i for i, x in enumerate(case.inputs) if x is not None and x.dtype.kind == "f"]
        same(run_op(kind, case, tested, backend, into=True), whole, floats, "into given memory")
        if len(floats) > 1:
            for place in floats:
                same(run_op(kind, case, tested, backend, only_input=place), whole, [place], "alone")
        if len(whole.outputs) > 1:
            for place, out in enumerate(whole.outputs):
                if out.dtype.kind == "f":
                    want = run_op(kind, case, tested, runtime.get("cpu"), dtype=dtypes.float64, only_output=place)
                    got = run_op(kind, case, tested, backend, only_output=place)
                    same(got, want, floats, f"of output {place} alone")


@_each(OPS, tuple(m for m in TESTED if m.name in ("cpu", "webgpu", "cuda_on_cpu", "cuda")), dtypes_too=False)
def test_bad_cases(name: str, mode: Mode, dtype: str) -> None:
    """What must be refused is refused by the same words everywhere."""
    backend, tested, cpu = runtime.get(mode.backend), as_dtype(dtype), runtime.get("cpu")
    for case in OPS[name].bad_cases():
        with pytest.raises((ValueError, TypeError), match=case.message) as here:
            run_op(OPS[name], case, tested, backend)
        with pytest.raises((ValueError, TypeError)) as there:
            run_op(OPS[name], case, tested, cpu)
        assert str(here.value) == str(there.value), f"{name}, {case.name}"


def test_every_op_has_cases() -> None:
    without = [name for name in OPS if not cases_of(name)]
    assert not without, f"ops without cases are ops without tests: {without}"


def test_every_kernel_is_launched() -> None:
    """Each declared kernel is reached by a case, so that it is tested on every backend; and what makes products is
    known by name, so that it is tested without cuBLAS."""
    seen: dict[str, set[str]] = {}
    names: list[str] = []

    class Recorder:
        def before(self, launch: runtime.Launch) -> None:
            seen.setdefault(names[-1], set()).add(launch.spec.kernel.name)

        def after(self, launch: runtime.Launch) -> None: ...

    recorder, cpu = Recorder(), runtime.get("cpu")
    runtime.hooks.append(recorder)
    try:
        for name in OPS:
            names.append(name)
            for case in cases_of(name):
                run_op(OPS[name], case, dtypes.float32, cpu)
        for name, all_cases in kernel_cases().items():
            names.append(name)
            for case in all_cases:
                run_kernel(case, dtypes.float32, cpu)
    finally:
        runtime.hooks.remove(recorder)
    missed = KERNELS.keys() - set().union(*seen.values())
    assert not missed, f"no case launches {sorted(missed)}"
    assert [n for n in names if is_product(n)] == [n for n in names if any(map(is_product, seen.get(n, ())))]
