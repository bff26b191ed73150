"""benchmarks/kernel_table.py: what it counts, for kernels whose counts are known."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from dualml import runtime
from dualml.programs.recording import Place

PATH = Path(__file__).resolve().parents[1] / "benchmarks" / "kernel_table.py"


@pytest.fixture(scope="module")
def table() -> Any:
    spec = importlib.util.spec_from_file_location("kernel_table", PATH)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["kernel_table"] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(("registers", "shared", "blocks"), [(168, 24 << 10, 3), (247, 48 << 10, 2), (30, 128, 16),
                                                             (16, 60 << 10, 3), (255, 0, 2)])
def test_blocks_of_a_multiprocessor(table: Any, registers: int, shared: int, blocks: int) -> None:
    assert table.blocks_of(registers, shared, 128) == blocks


def test_bytes_that_overlap_count_once(table: Any) -> None:
    assert table._length([Place(1, 0, 100), Place(1, 0, 100), Place(1, 50, 100), Place(2, 8, 8), Place(1, 300, 1)]) \
        == 159


def test_the_large_models_step(table: Any) -> None:
    """Six operations per token and matrix element, as everybody counts; tied embeddings are one matrix of products."""
    with runtime.use_backend("cpu"):
        before = runtime.get_backend()
        program = table.captured("bfloat16", 2, 0.0)
        runtime.set_backend(before)
    rows = table.rows_of(program.items)
    assert sum(row.launches for row in rows) == program.launches
    matrices = 6 * (384 * 1152 + 384 * 384 + 2 * 384 * 1536) + 4096 * 384
    assert sum(row.tensor for row in rows if "matmul" in row.name) == 6 * matrices * 512
    adamw = [row for row in rows if "adamw" in row.name]
    assert sum(row.bytes for row in adamw) == pytest.approx(28 * 12_322_816, rel=1e-4)


def test_what_was_measured(table: Any, tmp_path: Path) -> None:
    """Only of the same step; the floor's share beside it."""
    file, step = tmp_path / "step.json", {"precision": "bfloat16", "batch": 64, "dropout": 0.1}
    file.write_text(json.dumps(step | {"rows": []}))
    assert table.measured_by(file, *step.values())["batch"] == 64
    assert table.measured_by(None, *step.values()) == {}
    with pytest.raises(SystemExit, match=r"of another step: it has \{'batch': 64\}"):
        table.measured_by(file, "bfloat16", 8, 0.1)
    assert [table.measured_cell(us, 5e-6) for us in (None, 0.0, 10.0)] == ["-", "-", "10.0 (50%)"]


def test_table(table: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table, "resources", lambda spec, device: (32, 0))
    with runtime.use_backend("cpu"):
        before = runtime.get_backend()
        program = table.captured("bfloat16", 2, 0.0)
        runtime.set_backend(before)
    assert "Measured: not yet run on a GPU." in table.table(program, "bfloat16", 2, 0.0, {})[0]
    took = {"device": "H200", "driver": "CUDA 13.0", "date": "2026-11-21", "step ms": 3.0,
            "rows": [{"kernel": "`adamw` f32", "us": 100.0}, {"kernel": "`other` f32", "us": 1.0}]}
    text = "\n".join(table.table(program, "bfloat16", 2, 0.0, took))
    for words in ("Measured: on H200", "| 100.0 (72%) |", "graph 3.00 ms", "not counted here: `other` f32"):
        assert words in text
