"""Checkpoints are whole or not there, and bring back weights, optimizer and random stream bit for bit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import dualml as dm
from dualml import checkpoints
from dualml.errors import CheckpointError


def make(width: int = 6) -> tuple[dm.nn.Module, dm.optim.AdamW]:
    model = dm.nn.Sequential(dm.nn.Linear(4, width), dm.nn.GELU(), dm.nn.Dropout(0.3), dm.nn.Linear(width, 2))
    groups = [{"params": [p for p in model.parameters() if p.ndim > 1], "weight_decay": 0.1},
              {"params": [p for p in model.parameters() if p.ndim < 2], "weight_decay": 0.0}]
    return model, dm.optim.AdamW(groups, lr=0.01)


def work(model: dm.nn.Module, optimizer: dm.optim.AdamW, steps: int) -> list[float]:
    x = dm.tensor(np.random.default_rng(0).standard_normal((5, 4)), dtype="float32")
    losses = []
    for _ in range(steps):
        loss = model(x).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


def test_goes_on_as_if_nothing_had_been(fast_backend: str, tmp_path: Path) -> None:
    dm.manual_seed(3)
    model, optimizer = make()
    work(model, optimizer, 3)
    path = checkpoints.save(tmp_path, 3, model, optimizer, {"note": "ü"})
    expected = work(model, optimizer, 3)
    dm.manual_seed(99)
    other, another = make()
    assert checkpoints.load(path, other, another)["note"] == "ü"
    assert work(other, another, 3) == expected  # dropout's stream and AdamW's moments too


def test_moves_between_backends(fast_backend: str, tmp_path: Path) -> None:
    model, optimizer = make()
    work(model, optimizer, 1)
    path = checkpoints.save(tmp_path, 1, model, optimizer, {})
    with dm.use_backend("cpu"):
        other, another = make()
        checkpoints.load(path, other, another)
        for mine, saved in zip(other.parameters(), model.parameters(), strict=True):
            np.testing.assert_array_equal(mine.detach().numpy(), saved.detach().numpy())


def test_keeps_the_newest_and_the_protected(cpu: None, tmp_path: Path) -> None:
    model, optimizer = make()
    for step in (1, 2, 3, 4):
        checkpoints.save(tmp_path, step, model, optimizer, {}, keep=2, protect=(1,))
    assert [p.name for p in checkpoints.steps(tmp_path)] == ["step-000001", "step-000003", "step-000004"]
    assert checkpoints.latest(tmp_path).name == "step-000004"
    checkpoints.save(tmp_path, 4, model, optimizer, {"again": True})
    assert checkpoints.read_state(checkpoints.latest(tmp_path))["again"]


def test_a_crash_while_saving_leaves_the_one_before(cpu: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, optimizer = make()
    checkpoints.save(tmp_path, 1, model, optimizer, {})

    def full_disk(path: Path) -> None:
        raise OSError("no space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(checkpoints, "_flush", full_disk)
        with pytest.raises(OSError, match="no space"):
            checkpoints.save(tmp_path, 2, model, optimizer, {})
    assert [p.name for p in tmp_path.iterdir()] == ["step-000001"]
    (tmp_path / "partial-1").mkdir()  # left by a process that was killed
    checkpoints.save(tmp_path, 2, model, optimizer, {})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-000001", "step-000002"]


def test_what_does_not_fit_is_named(cpu: None, tmp_path: Path) -> None:
    model, optimizer = make()
    with pytest.raises(CheckpointError, match="holds no checkpoint"):
        checkpoints.latest(tmp_path)
    path = checkpoints.save(tmp_path, 1, model, optimizer, {})
    with pytest.raises(CheckpointError, match=r"0\.weight must be \(7, 4\), got \(6, 4\)"):
        checkpoints.load(path, *make(7))
    with pytest.raises(CheckpointError, match=r"missing keys: 1\.bias, 1\.weight; unexpected keys: 0\.bias"):
        checkpoints.load_model(path, dm.nn.Sequential(dm.nn.GELU(), dm.nn.Linear(6, 2)))
    (path / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(CheckpointError, match="cannot be read"):
        checkpoints.load_model(path, model)
    (path / "state.json").write_text('{"format": 99}')
    with pytest.raises(CheckpointError, match="must be of format 1, got 99"):
        checkpoints.read_state(path)
