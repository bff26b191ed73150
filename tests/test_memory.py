"""Memory by origin: every byte is told once, by name or by the line that made it, and nothing is kept when off."""

from __future__ import annotations

import re
from typing import Any

import pytest

import dualml as dm
from dualml import nn, optim, runtime
from dualml.backends import base
from dualml.errors import ShapeError
from dualml.memory import Origins, living


def _line(text: str) -> int:
    """The number of the line in this file that has `text` (built so that it does not find itself)."""
    with open(__file__, encoding="utf-8") as file:
        return next(i for i, line in enumerate(file, 1) if text in line and "_line(" not in line)


def _all_told(found: Origins, backend: str) -> None:
    total = sum(row.nbytes for row in found.rows)
    assert found.memory == dm.memory()
    if backend == "webgpu":  # its pool rounds sizes up
        assert 0 <= found.rounding <= found.memory["in_use"]
    else:
        assert total == found.memory["in_use"]
        assert found.rounding == 0
    assert sum(found.kinds().values()) == total


def test_kernels_host_values_and_lines(backend: str) -> None:
    with dm.memory_trace():
        x = dm.tensor([[1.0, -2.0], [3.0, 4.0]])  # host line
        y = dm.nn.functional.relu(x)  # kernel line
        z = dm.zeros(5)
        copy = y._array.copy()
        found = dm.memory_by_origin()
    rows = {(row.kind, row.name): row for row in found.rows}
    host = rows["from host", f"test_memory.py:{_line('# host line')}"]
    assert (host.count, host.nbytes) == (1, 16)
    made = rows["relu_forward", f"test_memory.py:{_line('# kernel line')}"]
    assert (made.count, made.nbytes) == (1, 16)
    assert any(row.kind == "fill_forward" and row.nbytes == 20 for row in found.rows)
    assert any(row.kind == "copy" and row.nbytes == copy.nbytes for row in found.rows)
    _all_told(found, backend)
    assert z.shape == (5,)
    del x, y, z, copy
    assert not any("test_memory.py" in row.name for row in dm.memory_by_origin().rows)


def test_parameters_gradients_and_state_by_name(backend: str) -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    optimizer = optim.AdamW(model.parameters())
    loss = (model(dm.ones(5, 3)) ** 2).sum()
    loss.backward()
    optimizer.step()
    found = dm.memory_by_origin(model, optimizer)
    by_kind: dict[str, dict[str, int]] = {}
    for row in found.rows:
        by_kind.setdefault(row.kind, {})[row.name] = row.nbytes
    expected = {n: p.numel() * 4 for n, p in model.named_parameters()}
    for kind in ("parameter", "gradient", "exp_avg", "exp_avg_sq"):
        told = {n: size for n, size in by_kind[kind].items() if not n.startswith("(gaps")}
        assert told == expected
    _all_told(found, backend)
    assert "before the trace" in by_kind
    text = str(found)
    assert re.search(r"parameter +0\.weight", text)
    assert f"in use on {backend}" in text
    assert loss.shape == ()


def test_a_captured_step_is_told(fast_backend: str) -> None:
    layer = nn.Linear(8, 8)

    @dm.capture
    def step(x: dm.Tensor) -> Any:
        return dm.nn.functional.relu(layer(x)).sum()

    with dm.memory_trace():
        for _ in range(3):
            step(dm.ones(4, 8))
        found = dm.memory_by_origin(layer)
    assert found.kinds()["captured step"] > 0
    _all_told(found, fast_backend)


def test_off_means_off(cpu: None) -> None:
    assert base.watchers == []
    with pytest.raises(RuntimeError), dm.memory_trace():
        raise RuntimeError
    assert base.watchers == []
    x = dm.ones(3)
    assert x._array.buffer in living(runtime.current())
    assert any(row.kind == "before the trace" for row in dm.memory_by_origin().rows)


def test_long_tables_are_cut_and_owners_checked(cpu: None) -> None:
    model = nn.Sequential(*(nn.Linear(2, 2) for _ in range(4)))
    assert "... and" in dm.memory_by_origin(model).table(most=3)
    with pytest.raises(ShapeError, match=r"\[memory\] owners must be modules or optimizers, got int"):
        dm.memory_by_origin(3)  # type: ignore[arg-type]
