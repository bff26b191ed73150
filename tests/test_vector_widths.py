"""Mesa's CPU driver has vectors of 128, 256 or 512 bits, subgroups of 4, 8 or 16: all ops on those not used elsewhere.

The driver reads its width once, so another one takes another process.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from dualml import runtime
from dualml.backends import lavapipe
from dualml.ops.matmul import matmul
from tests.parity.modes import PRESENT
from tests.parity.outcomes import TESTED_OPS, kernel_cases

ROOT = Path(__file__).resolve().parents[1]
DEVICE = runtime.get("webgpu").device.name if "webgpu" in PRESENT else ""
MODERN = {"fpu", "avx2", "avx512f", "avx512bw", "avx512dq", "avx512vl"}


@pytest.mark.parametrize(("features", "already", "found"), [
    (MODERN, None, "512"), (MODERN, "256", "256"), (MODERN, "", ""), (MODERN - {"avx512vl"}, None, None),
    (set(), None, None)])
def test_512_bits_are_asked_for_where_the_cpu_has_them(
        features: set[str], already: str | None, found: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lavapipe, "_cpu_features", lambda: features)
    monkeypatch.setattr(os, "environ", {} if already is None else {lavapipe.WIDTH: already})
    lavapipe.prepare()
    assert os.environ.get(lavapipe.WIDTH) == found


@pytest.mark.parametrize(("cores", "already", "found"), [
    (1, None, None), (2, None, "8"), (8, None, "16"), (16, None, None), (64, None, None), (2, "2", "2")])
def test_cores_get_several_parts_of_a_launch(
        cores: int, already: str | None, found: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lavapipe, "_cores", lambda: cores)
    monkeypatch.setattr(os, "environ", {} if already is None else {lavapipe.THREADS: already})
    lavapipe.prepare()
    assert os.environ.get(lavapipe.THREADS) == found


def test_what_linux_says_of_the_cpu_is_read() -> None:
    flags = {word for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("flags")
             for word in line.split()} if Path("/proc/cpuinfo").exists() else set()
    assert lavapipe._cpu_features() == flags


@pytest.mark.skipif("llvmpipe" not in DEVICE, reason="of Mesa's CPU driver only")
@pytest.mark.parametrize("width", [w for w in (128, 256, 512) if f"{w} bits" not in DEVICE])
def test_every_op_kernel_and_tile_at_every_width(width: int, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:xdist", "-p", "no:cacheprovider",
               *[str(ROOT / "tests" / name) for name in ("test_parity.py", "test_matmul.py")],
               "-k", "(test_op or test_kernel) and webgpu-float32 or test_variant and subgroup"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env={
        **os.environ, lavapipe.WIDTH: str(width), "PARITY_FOLDER": str(tmp_path), "DUALML_REQUIRE": "webgpu"})
    assert done.returncode == 0, done.stdout + done.stderr
    expected = len(TESTED_OPS) + len(kernel_cases()) + sum(v.name == "subgroup" for v in matmul.variants)
    assert re.search(rf"\b{expected} passed", done.stdout), done.stdout
    results = [json.loads(path.read_text()) for path in tmp_path.glob("*.json")]
    assert {r["op"] for r in results} >= set(TESTED_OPS)
    assert all(f"{width} bits" in r["device"] and not r["failed"] for r in results)
