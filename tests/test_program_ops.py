"""Each op's launches, forward and backward, survive a file: loaded they give the same bits, and nothing is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dualml as dm
from dualml.tape import apply, backward
from tests.parity.outcomes import TESTED_OPS, cases_of, twisted


def _work(kind: Any, options: dict[str, Any], backwards: bool) -> Any:
    def work(*tensors: dm.Tensor) -> Any:
        leaves = [t.detach().requires_grad_() if t.dtype.is_floating_point and backwards else t for t in tensors]
        made = apply(kind, *leaves, **options)
        outputs = [o for o in (made if isinstance(made, tuple) else (made,)) if o.requires_grad]
        wanted = [t for t in leaves if t.requires_grad]
        found = backward(outputs, [o.detach() * 2 + 1 for o in outputs], wanted=wanted) if outputs else []
        return made, [dm.Tensor(g) for g in found if g is not None]
    return work


def _flat(found: Any) -> list[np.ndarray]:
    made, gradients = found
    return [t.detach().numpy() for t in (*(made if isinstance(made, tuple) else (made,)), *gradients)]


@pytest.mark.parametrize("name", TESTED_OPS)
def test_an_op_comes_back_from_a_file(name: str, fast_backend: str, tmp_path: Path) -> None:
    for number, case in enumerate([c for c in cases_of(name) if all(x is not None for x in c.inputs)][:4]):
        inputs = [x.astype(np.float32) if x.dtype.kind == "f" else x for x in case.inputs]
        captured = dm.capture(_work(TESTED_OPS[name], case.options, case.differentiable))
        for _ in range(2):
            captured(*map(dm.tensor, inputs))
        captured.programs[0].save(tmp_path / str(number))
        moved = [dm.tensor(twisted(x)) for x in inputs]
        wanted, found = _flat(captured(*moved)), _flat(dm.load_program(tmp_path / str(number))(*moved))
        for one, other in zip(found, wanted, strict=True):
            np.testing.assert_array_equal(one, other)
