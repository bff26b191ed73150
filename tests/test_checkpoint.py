"""Checkpoints are whole or not there, and bring back weights, optimizer and random stream bit for bit."""

from __future__ import annotations

import errno
import os
import shutil
import warnings
from contextlib import suppress
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
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(checkpoints, "flush", full_disk)
        with pytest.raises(CheckpointError, match=r"step-000002 cannot be written: No space left .* untouched"):
            checkpoints.save(tmp_path, 2, model, optimizer, {})
    assert [p.name for p in tmp_path.iterdir()] == ["step-000001"]
    (tmp_path / "partial-1").mkdir()  # left by a process that was killed
    checkpoints.save(tmp_path, 2, model, optimizer, {})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-000001", "step-000002"]


def test_there_is_no_moment_without_a_checkpoint(cpu: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same step again: whatever call to the file system is the last one, a whole checkpoint of it is there."""
    model, optimizer = make()
    checkpoints.save(tmp_path, 7, model, optimizer, {"turn": 0})
    real, calls = os.replace, [0]

    class Killed(BaseException):
        pass

    def replace(source: Path, target: Path) -> None:
        calls[0] -= 1
        if calls[0] < 0:
            raise Killed
        real(source, target)

    monkeypatch.setattr(os, "replace", replace)
    monkeypatch.setattr(shutil, "rmtree", lambda path, ignore_errors: None)  # a killed process tidies nothing
    seen = []
    for allowed in range(4):
        calls[0] = allowed
        with suppress(Killed):
            checkpoints.save(tmp_path / str(allowed), 7, model, optimizer, {"turn": 1})
            calls[0] = allowed
            checkpoints.save(tmp_path / str(allowed), 7, model, optimizer, {"turn": 2})
        if allowed:
            found = checkpoints.latest(tmp_path / str(allowed))
            assert checkpoints.number(found) == 7
            seen.append(checkpoints.read_state(found)["turn"])
        for left in (tmp_path / str(allowed)).glob("partial-*"):
            left.rename(left.with_name(f"moved-{left.name}"))
    assert seen == [1, 2, 2]


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc")
def test_all_is_on_disk_before_it_has_its_name(cpu: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    real_sync, real_replace = os.fsync, os.replace

    def fsync(handle: int) -> None:
        calls.append(f"fsync {Path(os.readlink(f'/proc/self/fd/{handle}')).name}")
        real_sync(handle)

    def replace(source: Path, target: Path) -> None:
        calls.append(f"replace {Path(target).name}")
        real_replace(source, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", replace)
    checkpoints.save(tmp_path / "kept", 1, *make(), {})
    assert calls == ["fsync model.safetensors", "fsync optimizer.safetensors", "fsync state.json", "fsync commit.json",
                     f"fsync partial-{os.getpid()}", "replace step-000001", "fsync kept"]


def test_broken_ones_do_not_count_as_kept(cpu: None, tmp_path: Path) -> None:
    model, optimizer = make()
    for step in (1, 2, 9):
        checkpoints.save(tmp_path, step, model, optimizer, {}, keep=9)
    (tmp_path / "step-000009" / "state.json").unlink()
    for step in (3, 4):
        checkpoints.save(tmp_path, step, model, optimizer, {}, keep=2)
    assert [checkpoints.number(p) for p in checkpoints.steps(tmp_path)] == [3, 4, 9]


def test_broken_ones_are_skipped_with_a_word(cpu: None, tmp_path: Path) -> None:
    model, optimizer = make()
    paths = [checkpoints.save(tmp_path, step, model, optimizer, {}, keep=9) for step in range(1, 7)]
    spoil = {5: ("model.safetensors", lambda b: b[:-1]), 4: ("optimizer.safetensors", lambda b: b[:-1] + b"!"),
             3: ("state.json", None), 2: ("commit.json", lambda b: b"{}")}
    for step, (name, change) in spoil.items():
        file = paths[step - 1] / name
        file.write_bytes(change(file.read_bytes())) if change else file.unlink()
    (paths[5] / "commit.json").unlink()  # never finished: no checkpoint at all
    said: list[str] = []
    assert checkpoints.latest(tmp_path, said.append) == paths[0]
    reasons = ["cut short", "SHA-256 differs", "is missing", "format 2, got None"]
    for text, step, reason in zip(said, (5, 4, 3, 2), reasons, strict=True):
        assert text.startswith(f"step-{step:06d} is skipped: ")
        assert reason in text
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        checkpoints.latest(tmp_path)
    assert [str(w.message) for w in seen] == said
    with pytest.raises(CheckpointError, match="cut short"):
        checkpoints.find(tmp_path, 5)
    (paths[0] / "state.json").write_text("{}")
    with pytest.raises(CheckpointError, match="None of its checkpoints is whole"):
        checkpoints.latest(tmp_path, said.append)
    with pytest.raises(CheckpointError, match=r"step must be one of 1, 2, 3, 4, 5 .* got 9"):
        checkpoints.find(tmp_path, 9)


def test_what_does_not_fit_is_named(cpu: None, tmp_path: Path) -> None:
    model, optimizer = make()
    with pytest.raises(CheckpointError, match=r"holds no checkpoint\. Train first"):
        checkpoints.latest(tmp_path)
    path = checkpoints.save(tmp_path, 1, model, optimizer, {})
    with pytest.raises(CheckpointError, match=r"0\.weight must be \(7, 4\), got \(6, 4\)"):
        checkpoints.load(path, *make(7))
    with pytest.raises(CheckpointError, match=r"missing keys: 1\.bias, 1\.weight; unexpected keys: 0\.bias"):
        checkpoints.load_model(path, dm.nn.Sequential(dm.nn.GELU(), dm.nn.Linear(6, 2)))
    with pytest.raises(CheckpointError, match="does not fit this optimizer"):
        checkpoints.load(path, model, dm.optim.AdamW(model.parameters()))
    (path / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(CheckpointError, match="must be a safetensors file"):
        checkpoints.load_model(path, model)
