"""Scalars of a program file that a kernel could not live with, whatever its tensors hold."""

from __future__ import annotations

from typing import Any

import pytest

from dualml.kernel import Kernel
from dualml.ops.bias_gelu import bias_gelu_backward
from dualml.ops.norm import layer_norm_backward, rms_norm_backward
from dualml.programs.reach import check_reach


@pytest.mark.parametrize("rows", [bias_gelu_backward, layer_norm_backward, rms_norm_backward], ids=str)
def test_no_groups_of_rows(rows: Kernel) -> None:
    """A workgroup that goes on by as many rows would never end."""
    dims: dict[str, Any] = {"N": 4, "C": 8, "A": 0, "R": 0, "S": 1, "P": 1, "Z": 0}
    check_reach(rows, dims)
    with pytest.raises(ValueError, match="_backward has 0 groups of rows"):
        check_reach(rows, dims | {"S": 0})
