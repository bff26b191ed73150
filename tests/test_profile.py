"""Profiles: every launch is seen once, with its device time, and nothing changes by being watched."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import dualml as dm
from dualml import nn, runtime


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
