"""A run that is killed with SIGKILL again and again, mid-checkpoint too, ends like one that never was: the same losses
and the same weights, bit for bit."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dualml import checkpoints
from dualml.safe_files import load_tensors
from dualml.train.metrics import read
from tests.parity.modes import PRESENT

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
ROOT = Path(__file__).resolve().parents[1]
STEPS = {"cpu": 90, "webgpu": 44, "cuda": 44}
EVERY_MOMENT: list[list[Any]] = [
    ["before the optimizer", 1], ["before mkdir", 2], ["half the weights", 1], ["half the weights", 4],
    ["before fsync", 3], ["before the commit", 2], ["after fsync", 5], ["half a text", 2], ["before replace", 2],
    ["after replace", 2], ["after fsync", 6], ["half a removal", 1], ["half a line", 3], ["while hashing", 7],
    ["after the optimizer", 3], ["while resuming", 1], ["before replace", 1], ["after replace", 5]]
SOME_MOMENTS = [EVERY_MOMENT[i] for i in (2, 6, 9, 14)]


class Zygote:
    """See tests/killed.py."""

    def __init__(self) -> None:
        self.process = subprocess.Popen([sys.executable, "-m", "tests.killed"], cwd=ROOT, text=True,
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        env=os.environ | {"OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)})

    def run(self, *job: Any, after: float | None = None) -> int:
        """Does a job; kills it after so many seconds. Returns its exit code, which is -9 where it was killed."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(json.dumps([after, *job]), file=self.process.stdin, flush=True)
        return int(self.process.stdout.readline())


@pytest.fixture(scope="module")
def zygote() -> Iterator[Zygote]:
    found = Zygote()
    yield found
    found.process.communicate()


def kept(folder: Path) -> int:
    """The step of the newest checkpoint, of which none may be broken."""
    if not checkpoints.steps(folder / "checkpoints"):
        return 0
    for path in checkpoints.steps(folder / "checkpoints"):
        checkpoints.verify(path)
    return checkpoints.number(checkpoints.latest(folder / "checkpoints"))


def measured(folder: Path) -> list[dict[str, Any]]:
    return [{k: v for k, v in line.items() if k != "seconds"} for line in read(folder / "metrics.jsonl")]


def compare(broken: Path, whole: Path) -> None:
    assert measured(broken) == measured(whole)
    paths = [checkpoints.latest(folder / "checkpoints") for folder in (broken, whole)]
    assert len({p.name for p in paths}) == 1
    states = [{k: v for k, v in checkpoints.read_state(p).items() if k != "spent"} for p in paths]
    assert states[0] == states[1]
    for name in ("model.safetensors", "optimizer.safetensors"):
        assert (paths[0] / name).read_bytes() == (paths[1] / name).read_bytes()
        assert load_tensors(paths[0] / name)


@pytest.mark.parametrize("backend", [b for b in ("cpu", "webgpu", "cuda") if b in PRESENT])
def test_killed_runs_end_like_unbroken_ones(backend: str, tmp_path: Path, zygote: Zygote) -> None:
    text = tmp_path / "text.txt"
    text.write_text("the quick brown fox jumps over the lazy dog and runs away. " * 60, encoding="utf-8")
    broken, whole = tmp_path / "broken", tmp_path / "whole"
    steps = STEPS[backend]
    assert zygote.run(str(whole), str(text), backend, steps, None) == 0
    job = str(broken), str(text), backend, steps
    kills, reached = 0, 0
    for moment in EVERY_MOMENT if backend == "cpu" else SOME_MOMENTS:
        assert zygote.run(*job, moment) == -signal.SIGKILL, f"{moment}: the run came to its end at {kept(broken)}"
        before, reached = reached, kept(broken)
        assert reached >= before, f"{moment} lost a checkpoint"
        kills += 1
    rng = random.Random(0)
    for _ in range(6 if backend == "cpu" else 1):
        kills += zygote.run(*job, None, after=rng.uniform(0.02, 0.25)) == -signal.SIGKILL
        before, reached = reached, kept(broken)
        assert reached >= before
    assert kills >= (20 if backend == "cpu" else 5)
    assert zygote.run(*job, None) == 0
    assert kept(broken) == steps
    compare(broken, whole)
