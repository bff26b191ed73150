"""Every op's cases, forward and backward, in each dtype: a replay, fused or not, has the bits of a call."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import dualml as dm
from dualml import runtime
from dualml.dtypes import DType, as_dtype, float32
from dualml.ops.base import Case
from dualml.tape import apply, backward
from tests.parity.modes import PRESENT
from tests.parity.outcomes import TESTED_OPS, cases_of, of_16_bits, rounded, twisted

HALVES = [(name, short) for name in PRESENT for short in ("float16", "bfloat16")
          if as_dtype(short) in runtime.get(name).dtypes]


def _arrays(value: Any) -> list[np.ndarray]:
    return [value.detach().numpy()] if isinstance(value, dm.Tensor) else [a for v in value for a in _arrays(v)]


def _tensors(inputs: list[np.ndarray | None]) -> list[dm.Tensor | None]:
    return [None if x is None else dm.tensor(x) for x in inputs]


def _check(name: str, case: Case, dtype: DType = float32) -> None:
    def work(*tensors: dm.Tensor | None) -> Any:
        leaves = [t.detach().requires_grad_() if t is not None and t.dtype.is_floating_point and case.differentiable
                  else t for t in tensors]
        made = apply(TESTED_OPS[name], *leaves, **case.options)
        outputs = [o for o in (made if isinstance(made, tuple) else (made,)) if o.requires_grad]
        if not outputs:
            return made, ()
        wanted = [t for t in leaves if t is not None and t.requires_grad]
        found = backward(outputs, [o.detach() * 2 + 1 for o in outputs], wanted=wanted)
        return made, tuple(dm.Tensor(g) for g in found if g is not None)

    inputs = [rounded(x, dtype, dtype) for x in case.inputs]
    others = [None if x is None else twisted(x) for x in inputs]
    dm.manual_seed(2)
    work(*_tensors(inputs)), work(*_tensors(inputs))
    eager = _arrays(work(*_tensors(others)))
    for fusion in (True, False):
        captured = dm.capture(work, fusion=fusion)
        dm.manual_seed(2)
        for _ in range(2):
            captured(*_tensors(inputs))
        replayed = _arrays(captured(*_tensors(others)))
        assert captured.programs, f"{name}, {case.name} was not captured"
        for one, other in zip(eager, replayed, strict=True):
            assert one.tobytes() == other.tobytes(), f"{name}, {case.name}, {dtype.name}, {fusion=}"


@pytest.mark.parametrize("name", TESTED_OPS)
def test_an_op_is_the_same_bit_for_bit(name: str, backend: str) -> None:
    for case in cases_of(name):
        _check(name, case)


@pytest.mark.parametrize(("backend", "short"), HALVES, indirect=["backend"])
@pytest.mark.parametrize("name", TESTED_OPS)
def test_an_op_is_the_same_in_16_bits(name: str, short: str, backend: str) -> None:
    for index in of_16_bits(cases_of(name), short):
        _check(name, cases_of(name)[index], as_dtype(short))
