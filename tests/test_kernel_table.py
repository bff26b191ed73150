"""benchmarks/kernel_table.py: what it counts, for kernels whose counts are known."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import pytest

import dualml as dm
from dualml import runtime
from dualml.errors import BackendError
from dualml.kernel import KERNELS
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


@pytest.fixture(autouse=True)
def no_other_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """The noting devices are there during one test: they compute nothing, which `dualml devices` would tell."""
    for known in ("_FACTORIES", "_open", "_current"):
        monkeypatch.setattr(runtime, known, type(getattr(runtime, known))(getattr(runtime, known)))


@pytest.mark.parametrize(("registers", "shared", "blocks"), [(168, 24 << 10, 3), (247, 48 << 10, 2), (30, 128, 16),
                                                             (16, 60 << 10, 3), (255, 0, 2)])
def test_blocks_of_a_multiprocessor(table: Any, registers: int, shared: int, blocks: int) -> None:
    assert table.blocks_of(registers, shared, 128) == blocks


def test_bytes_that_overlap_count_once(table: Any) -> None:
    places = [Place(1, 0, 100), Place(1, 0, 100), Place(1, 50, 100), Place(2, 8, 8), Place(1, 300, 1)]
    assert sys.modules["kernel_counts"]._length(places) == 159


def test_the_large_models_step(table: Any) -> None:
    """Six operations per token and matrix element, as everybody counts; tied embeddings are one matrix of products."""
    with runtime.use_backend("cpu"):
        program = table.captured("bfloat16", 2, 0.0)
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
        program = table.captured("bfloat16", 2, 0.0)
    assert "Measured: not yet run on a GPU." in table.table(program, "bfloat16", 2, 0.0, {})[0]
    took = {"device": "H200", "driver": "CUDA 13.0", "date": "2026-11-21", "step ms": 3.0,
            "rows": [{"kernel": "`adamw` f32", "us": 100.0}, {"kernel": "`other` f32", "us": 1.0}]}
    text = "\n".join(table.table(program, "bfloat16", 2, 0.0, took))
    for words in ("Measured: on H200", "| 100.0 (72%) |", "graph 3.00 ms", "not counted here: `other` f32"):
        assert words in text


def test_every_kernel_has_a_row(table: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the training step has no use for is led to by work of its own."""
    monkeypatch.setattr(table, "resources", lambda spec, device: (32, 0))
    known = {item.name for item in table.captured("bfloat16", 2, 0.1).items}
    lines = table.others(known, {})
    assert lines[0] == "Measured: not yet run on a GPU."
    lines = lines[2:]
    rows = {line.split("`")[1].partition(".")[0]: line for line in lines[2:]}
    assert rows.keys() == (KERNELS.keys() | table.ELEMENTWISE) - known
    assert "| N 12,323,776 | 148 | 0.0246 | 30.8 | - | memory |" in rows["sgd"]  # 3 x 4 bytes of each at 4.8 TB/s
    # 16 texts of 1,000 tokens: 768 numbers of each are read, and written into the cache, whatever else is there
    assert f"| {16000 * (768 + 768) * 4 / 1e6:.3g} |" in rows["cache_append"]


def test_others_beside_what_was_measured(table: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A launch is found again by its name, which a real device's clock writes, too."""
    monkeypatch.setattr(table, "resources", lambda spec, device: (32, 0))
    known = {item.name for item in table.captured("bfloat16", 2, 0.1).items}
    took = {"device": "H200", "driver": "CUDA 13.0", "date": "2026-11-22", "us": {"sgd f32 | N 12,323,776": 61.6}}
    lines = table.others(known, took)
    assert lines[0] == "Measured: on H200 (CUDA 13.0), 2026-11-22."
    assert [line.split("`")[1] for line in lines if "| 61.6 (50%) |" in line] == ["sgd"]


def test_other_kernels_are_timed_by_a_devices_clock(table: Any) -> None:
    module = importlib.import_module("other_kernels")

    def replayed() -> None:
        chain = dm.capture(lambda x: (x * 2 + 1).tanh())
        for _ in range(4):
            float(chain(dm.ones(8)).sum())

    def broken() -> None:
        dm.ones(3)
        raise BackendError("lost")

    with runtime.use_backend("cpu"):
        bench = module.Bench("webgpu")
        for _ in range(3):
            bench.run(lambda: dm.ones(64, 64).exp(), True)
            bench.run(replayed, True)
            bench.run(broken, True)
        with pytest.raises(SystemExit, match="cpu has no clock"):
            module.Bench("cpu")
    assert bench.failed == {"broken": "BackendError: lost"}
    found = bench.medians()
    assert {"exp_forward f32 | N 4,096", "fused f32 | N 8"} <= found.keys()
    assert all(us > 0 for us in found.values())


def test_registers_of_products_are_ranges_of_numbers(table: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of all ways of storing, on each architecture by itself."""
    units = iter([(96, 120), (128, 114), (110, 118), (104, 97)] * 3)
    monkeypatch.setattr(table, "taken", lambda spec: (*next(units), 4096, "3, 19%", "32, 20"))
    lines = table.products()
    assert [line.split(" | ")[0] for line in lines[2:]] == ["| 128 x 128", "| 64 x 64", "| 32 x 128"]
    assert all(line.endswith("| 96 to 128 (97 to 120) | 4 KiB | 3, 19% | 32, 20 |") for line in lines[2:])


@pytest.mark.parametrize(("size", "tile"), [(64, "128 x 64"), (128, "128 x 32")])
def test_attention_of_a_tile(table: Any, monkeypatch: pytest.MonkeyPatch, size: int, tile: str) -> None:
    """A row names the variant's tile, and counts instructions in the PTX that the compiler gave."""
    monkeypatch.setattr(table, "compiled", lambda spec, device: (200, 0, "mma.sync ldmatrix mma.sync"))
    lines = table.attention()
    assert any(line.startswith(f"| forward | {size} | {tile}, 128 | 200 (200) |") and line.endswith("| 2, 1 |")
               for line in lines)
