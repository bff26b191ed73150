"""dualml inspect: the right figures, of every kind of model folder, and what is broken shown as such."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import dualml as dm
from dualml import checkpoints
from dualml.cli.main import app
from dualml.errors import CheckpointError
from dualml.models import Llama, LlamaConfig, save_pretrained
from dualml.safe_files import save_tensors

CONFIG = LlamaConfig(vocab_size=11, context=8, layers=2, heads=2, kv_heads=1, width=8, hidden=12)
pytestmark = pytest.mark.usefixtures("cpu")


def inspect(*arguments: Any, code: int = 0) -> str:
    result = CliRunner().invoke(app, ["inspect", *map(str, arguments)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    return result.stdout


def figures(*arguments: Any, code: int = 0) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(inspect(*arguments, "--json", code=code))
    return found


def test_figures(tmp_path: Path) -> None:
    x = (np.random.default_rng(0).standard_normal((30, 7)) + 1000).astype(np.float32)
    broken = np.array([1, np.nan, -3, np.inf, np.nan], np.float16)
    save_tensors(tmp_path / "m.safetensors", {"x": x, "broken": broken, "none": np.zeros((0, 3), np.float32),
                                              "all": np.full(2, np.nan, np.float32), "whole": np.arange(4)})
    found = figures(tmp_path / "m.safetensors", code=1)
    assert found["total"] == {"tensors": 5, "count": 221, "bytes": 840 + 10 + 8 + 32, "nan": 4, "inf": 1}
    rows = {r["name"]: r for r in found["tensors"]}
    exact = x.astype(np.float64)
    assert rows["x"]["shape"] == [30, 7]
    assert rows["x"]["mean"] == pytest.approx(exact.mean(), rel=1e-12)
    assert rows["x"]["std"] == pytest.approx(exact.std(), rel=1e-9)
    assert rows["x"]["norm"] == pytest.approx(np.linalg.norm(exact), rel=1e-12)
    assert rows["x"]["largest"] == exact.max()
    assert (rows["broken"]["nan"], rows["broken"]["inf"], rows["broken"]["mean"]) == (2, 1, -1.0)
    assert rows["none"]["norm"] is None
    assert rows["all"]["mean"] is None
    text = inspect(tmp_path / "m.safetensors", code=1)
    assert "2 NaN, 1 inf" in text
    assert "4 NaN and 1 infinities. The weights are not usable." in text


def test_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder in Hugging Face's form, in shards too; a checkpoint, its run, and the newest run by default."""
    model = Llama(CONFIG)
    count = model.num_parameters()
    for name, shard in (("whole", 1 << 20), ("shards", 500)):
        assert figures(save_pretrained(model, tmp_path / name, max_shard=shard))["total"]["count"] == count
    optimizer = dm.optim.AdamW(model.parameters())
    kept = tmp_path / "runs" / "one" / "checkpoints"
    for step in (5, 10):
        checkpoints.save(kept, step, model, optimizer, {})
    assert figures(kept / "step-000005")["model"].endswith("step-000005")
    assert figures(tmp_path / "runs" / "one")["model"].endswith("step-000010")
    monkeypatch.chdir(tmp_path)
    newest = figures("--match", "wte")
    assert newest["model"].endswith("step-000010")
    assert [r["name"] for r in newest["tensors"]] == ["wte.weight"]
    assert f"{count:,} numbers" in inspect()
    (kept / "step-000005" / "model.safetensors").write_bytes(b"short")
    with pytest.raises(CheckpointError, match=r"must have .* bytes, got 5"):
        inspect(kept / "step-000005")


def test_what_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CheckpointError, match=r"missing does not exist. Name a run's folder"):
        inspect(tmp_path / "missing")
    with pytest.raises(CheckpointError, match="holds no checkpoint"):
        inspect(tmp_path)
    (tmp_path / "model.bin").write_bytes(b"")
    for path in (tmp_path / "model.bin", tmp_path):
        with pytest.raises(CheckpointError, match="is a pickle file"):
            inspect(path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match="no run was found"):
        inspect()
    shutil.rmtree(tmp_path / "runs", ignore_errors=True)
