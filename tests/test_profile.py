"""Profiles: every launch is seen once, with its device time, and nothing changes by being watched."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dualml as dm
from dualml import nn, optim, runtime
from dualml.errors import DualmlError
from dualml.kernel import KERNELS
from dualml.nn import functional as F
from dualml.timeline import lane_of


def test_every_launch_is_in_the_profile(backend: str, tmp_path: Path, launches: list[str]) -> None:
    layer, x = nn.Linear(32, 16, bias=False), dm.ones(8, 32)
    layer(x).sum().backward()  # compiles
    launches.clear()
    with dm.profile() as profile:
        layer(x).sum().backward()
    seen = list(launches)
    assert [one.name for one in profile.launches] == seen
    assert all(one.seconds > 0 for one in profile.launches)
    matmul = next(row for row in profile.rows() if row.name == "matmul")
    assert matmul.flops == matmul.count * 2 * 8 * 32 * 16
    assert all("test_profile.py" in one.where for one in profile.launches)
    table = profile.table().splitlines()
    assert len(table) == len(profile.rows()) + 2
    assert "matmul" in profile.table()
    profile.save_trace(tmp_path / "trace.json")
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    assert [e["name"] for e in events] == seen
    ends = [e["ts"] + e["dur"] for e in events]
    assert all(end <= e["ts"] + 1e-3 for end, e in zip(ends, events[1:], strict=False))
    assert not profile._waiting
    assert profile not in runtime.hooks


def test_a_captured_step_can_be_profiled(fast_backend: str) -> None:
    layer = nn.Linear(8, 8)

    def step(x: dm.Tensor) -> Any:
        return nn.functional.gelu(layer(x))
    captured = dm.capture(step)
    for _ in range(3):
        captured(dm.ones(2, 8))
    x = dm.full((2, 8), 0.5)
    with dm.profile() as profile:
        watched = captured(x)
    assert [one.name for one in profile.launches][:captured.programs[0].launches] == [
        item.name for item in captured.programs[0].items]
    again, eager = captured(x), step(x)
    assert watched.tolist() == again.tolist() == eager.tolist()


def test_the_call_that_makes_a_program_can_be_profiled(fast_backend: str) -> None:
    captured = dm.capture(lambda x: x * 2 + dm.ones(3))  # the ones are made once, and seen by the profile as all else
    captured(dm.zeros(3))
    with dm.profile() as profile:
        captured(dm.zeros(3))
    assert captured.programs[0].launches < captured.programs[0].recorded < len(profile.launches)


def test_webgpu_times_on_the_device() -> None:
    backend = runtime.get("webgpu")
    if "timestamp-query" not in backend.device.features:
        pytest.skip("no timestamps here")
    with dm.use_backend("webgpu"):
        x = dm.ones(1 << 20)
        assert backend.begin_timing()
        for _ in range(200):  # more than one submit
            x = x + 1
        seconds = backend.end_timing()
        assert len(seconds) == 200
        assert all(0 < s < 1 for s in seconds)
        assert x[:3].tolist() == [201.0] * 3


def test_memory_counts_tensors(fast_backend: str) -> None:
    before = dm.memory()
    assert before.keys() == {"in_use", "peak", "pool"}
    x = dm.zeros(1 << 20)
    assert dm.memory()["in_use"] >= before["in_use"] + (4 << 20)
    del x
    assert dm.memory(fast_backend)["in_use"] == before["in_use"]


def test_a_timeline_is_drawn(fast_backend: str, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    layer, x = nn.Linear(32, 16), dm.ones(8, 32)
    optimizer = optim.SGD(layer.parameters())
    with dm.profile() as profile:
        nn.functional.gelu(layer(x)).sum().backward()
        optimizer.step()
    begins = profile._begins()
    assert begins[0] == 0
    assert all(a + one.seconds <= b + 1e-9 for a, b, one in zip(begins, begins[1:], profile.launches, strict=False))
    profile.timeline(tmp_path / "step.svg", "one step")
    picture = (tmp_path / "step.svg").read_text()
    products = [one for one in profile.launches if one.name == "matmul"]
    assert f"matrix products: {len(products)} in {sum(o.seconds for o in products) * 1e3:.2f} ms" in picture
    assert f"one step: {len(profile.launches)} launches" in picture
    assert "optimizer: 1 in" in picture
    profile.timeline(tmp_path / "step.png")
    assert (tmp_path / "step.png").read_bytes().startswith(b"\x89PNG")
    with dm.profile() as nothing:
        pass
    nothing.timeline(tmp_path / "nothing.svg")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["nothing.svg", "step.png", "step.svg"]


def test_kernels_have_their_lanes() -> None:
    lanes = {name: lane_of(name) for name in KERNELS}
    assert lanes["matmul"] == 0
    assert lanes["attention_backward"] == lanes["rope_turn"] == 1
    assert lanes["sum_rows"] == lanes["arg_max_merge"] != lanes["grad_norm_total"] == lanes["adamw"]
    assert lanes["clip_adamw"] == lanes["adamw"]
    assert lanes["sum_partials"] == lanes["sum_jobs"] == lanes["sum_columns"]
    assert lane_of("gelu_forward") == lane_of("fill_forward")


def test_a_timeline_without_matplotlib(cpu: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [n for n in sys.modules if n == "matplotlib" or n.startswith("matplotlib.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with dm.profile() as profile:
        dm.ones(3) + 1
    with pytest.raises(DualmlError, match=r"\[timeline\] a picture needs matplotlib"):
        profile.timeline(tmp_path / "step.svg")
    assert not any(tmp_path.iterdir())


# ---- what a launch moves ----

def test_what_is_picked_counts_as_read_and_not_the_table(fast_backend: str) -> None:
    table, rows = dm.randn(1000, 8), dm.tensor(np.arange(4, dtype=np.int32))
    captured = dm.capture(lambda i: F.embedding(i, table))
    for _ in range(2):
        captured(rows)
    assert captured.programs[0].moved_bytes == 4 * (4 * 8 + 4 + 4 * 8)


def test_what_is_put_counts_and_not_all_that_it_is_put_into(fast_backend: str) -> None:
    """scatter_add reads an index, a value and what it adds to, which it writes."""
    x, index = dm.randn(50, 40, requires_grad=True), dm.zeros(50, 1, dtype="int32")

    def step() -> dm.Tensor:
        x.grad = None
        x.gather(1, index).sum().backward()
        return x.grad
    captured = dm.capture(step, fusion=False)
    for _ in range(2):
        captured()
    assert [i.moved_bytes for i in captured.programs[0].items if i.name == "scatter_add_forward"] == [4 * 50 * 4]


def test_rows_that_no_token_has_do_not_count(fast_backend: str) -> None:
    """Where an embedding's gradient is added to one that is there, of a table that is much larger than the text."""
    table, rows = nn.Embedding(3000, 8), dm.zeros(4, dtype="int32")
    optimizer = optim.SGD(table.parameters(), 0.1)

    def step() -> None:
        F.linear(table(rows), table.weight).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    captured = dm.capture(step)
    for _ in range(2):
        captured()
    moved = {item.name: item.moved_bytes for item in captured.programs[0].items}
    assert moved["embedding_accumulate"] == 4 * (2 * 4 * 8 + 4 * 8 + 4 + 3001)
