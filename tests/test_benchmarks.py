"""The benchmarks for GPUs, tried without one: on the cpu backend in very small sizes, and through a stand-in for CuPy.
None of their figures means anything here."""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
from argparse import Namespace
from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dualml import dtypes, runtime
from dualml.array import from_numpy, run
from dualml.ops.bias_gelu import bias_gelu_forward
from dualml.ops.matmul import gemm, matmul
from tests.cuda_references import WithReferences, references_compute
from tests.cupy_stand_in import Device, put_in_place

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "benchmarks"
SCRIPTS = sorted(p.stem for p in FOLDER.glob("*.py")
                 if "argparse" in p.read_text(encoding="utf-8") and "__main__" in p.read_text(encoding="utf-8"))
TORCH = "cpu" if find_spec("torch") else "none"


@pytest.fixture(autouse=True)
def path(monkeypatch: pytest.MonkeyPatch) -> None:
    """The scripts' folder is where they look for one another, during the test."""
    monkeypatch.setattr(sys, "path", [str(FOLDER), *sys.path])


def script(name: str, folder: Path, *words: str, code: int = 0) -> dict[str, Any]:
    """What a script writes for --json. PyTorch gets one thread: more would wait for one another at these sizes."""
    env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, str(FOLDER / f"{name}.py"), *words, "--json", "found.json"], cwd=folder,
                          env=env, text=True, capture_output=True, timeout=300)
    assert done.returncode == code, done.stdout + done.stderr
    found: dict[str, Any] = json.loads((folder / "found.json").read_text(encoding="utf-8"))
    return found


@pytest.mark.parametrize("name", SCRIPTS)
def test_help(name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    with pytest.raises(SystemExit, match="0"):
        runpy.run_path(str(FOLDER / f"{name}.py"), run_name="__main__")
    assert "usage" in capsys.readouterr().out


# ---- on the cpu backend ---------------------------------------------------------------------------------------------

def test_kernels(tmp_path: Path) -> None:
    words = ["--tiny", "--no-compile", "--variants", "--rounds", "1", "--seconds", "0", "--only", "cross", "adamw",
             "qkv dx"]
    found = script("gpu_kernels", tmp_path, "--backend", "cpu", "--torch", TORCH, *words)
    ways = {(row["kernel"], row["way"]) for row in found["rows"]}
    assert {("copy", "dualml"), ("adamw", "512 threads"), ("matmul qkv dx", "own kernel")} <= ways
    assert all(row["ms"] > 0 for row in found["rows"])
    assert len(found["targets"]) == 2
    if TORCH == "cpu":
        assert ("cross_entropy_in_place", "torch eager") in ways
        assert all(row["torch"] for row in found["targets"])


def test_attention(tmp_path: Path) -> None:
    found = script("attention", tmp_path, "--backend", "cpu", "--torch", "none", "--tokens", "16", "--lengths", "8",
                   "--width", "64", "--heads", "64", "--rounds", "1", "--seconds", "0", "--count", "1")
    assert {row["way"] for row in found["rows"]} == {"forward", "backward"}
    assert {row["name"] for row in found["rows"]} > {"dualml", "64x64 by 128", "plain"}
    assert all(row["error"] == pytest.approx(0.5) and row["check"] == "right" for row in found["rows"]), \
        "the plain kernel is half as far off as a form may be, and on this backend it is all there is"


def test_attention_is_near_what_it_is_held_against() -> None:
    """In the terms of the benchmark before it judged forms by the plain kernel: the largest error, over the largest
    value."""
    attention, backend, rng = import_module("attention"), runtime.get("cpu"), np.random.default_rng(0)
    given = [rng.standard_normal((2, 8, width)).astype(dtypes.bfloat16.host) for width in (192, 64)]
    right, data = (kind(backend, *given, 64, True) for kind in (attention.Right, attention.Ours))
    for way, made in (("forward", data.out), ("backward", data.backward())):
        missed = np.abs(right.some(made.numpy()).astype(np.float32) - right.exact[way]).max()
        assert 0 < missed < 0.05 * np.abs(right.exact[way]).max()


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_ways_of_a_step(precision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                        capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--backend", "cpu", "--config", "tiny", "--precision", precision]
    rows = script("captured", tmp_path, *words, "--steps", "4")["rows"]
    assert [row["way"] for row in rows] == ["eager", "captured", "loaded"]
    assert all(row["bits equal"] and row["host ms"] > 0 for row in rows)
    assert rows[0]["launches"] > rows[1]["launches"] == rows[2]["launches"]
    assert {row["precision"] for row in rows} == {precision}
    monkeypatch.setattr(sys, "argv", ["captured", *words, "--profile"])
    monkeypatch.setattr(runtime, "_current", list(runtime._current))
    assert import_module("captured").main() == 0
    table = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert {line[0]: line[1] for line in table}["all"] == str(rows[0]["launches"])
    assert any(line[0].startswith("cast") for line in table if line) == (precision == "bfloat16")


def test_launches_of_a_step(tmp_path: Path) -> None:
    found = script("step_kernels", tmp_path, "--backend", "cpu", "--tiny", "--batch", "2", "--rounds", "1")
    names = [row["kernel"] for row in found["rows"]]
    assert "`adamw` f32" in names
    assert any(name.startswith("`matmul` bf16 16x") for name in names)
    assert found["step ms"] > 0


def test_training_step_of_gpus(tmp_path: Path) -> None:
    rivals = ["--torch-device", "cpu", "--torch-modes", "none"] if TORCH == "cpu" else ["--no-rivals"]
    found = script("train_step", tmp_path, "--config", "tiny-gpu", "--backends", "cpu,cpu+capture1", "--rounds", "1",
                   "--seconds", "0.01", "--precision", "bfloat16", "--warm", *rivals)
    figures = found["results"]["tiny-gpu bfloat16"]
    assert figures["cpu"]["loss"] == figures["cpu+capture1"]["loss"]
    if TORCH == "cpu":
        assert abs(figures["torch"]["loss"] - figures["cpu"]["loss"]) < 0.1
        assert found["targets"][0]["ours"] > 0
    assert [row["target"] for row in found["targets"]][-1] == "12.3M step, 16,384 tokens, bfloat16"


def test_a_contestant_that_stays_silent(tmp_path: Path) -> None:
    found = script("train_step", tmp_path, "--config", "tiny-gpu", "--backends", "cpu", "--no-rivals", "--patience",
                   "0.01", "--precision", "float32")
    assert found["results"] == {"tiny-gpu float32": {}}


# ---- through a stand-in for CuPy ------------------------------------------------------------------------------------

@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Device:
    return put_in_place(monkeypatch, tmp_path)


@pytest.fixture
def backend(device: Device, monkeypatch: pytest.MonkeyPatch) -> Iterator[WithReferences]:
    """CUDA's backend, whose kernels compute by their references."""
    with references_compute(monkeypatch) as backend:
        yield backend


def test_device_time(device: Device, backend: WithReferences) -> None:
    """The stand-in's clock goes on by 3 at each event: 3 ms between two, whatever happens."""
    clocks = import_module("device_clock")
    clock = clocks.OurClock(backend, 256)
    count = 0

    def work() -> None:
        nonlocal count
        count += 1
    found = clocks.compare([clocks.Contestant("a", clock, work)], rounds=2, seconds=0.01, most=10)["a"]
    assert found.covered
    assert found.seconds == pytest.approx(3e-3 / 10)
    assert count == 2 + 3 + 2 * 10  # warm, guess, rounds


def test_forms_have_programs_of_their_own(device: Device, backend: WithReferences) -> None:
    clocks = import_module("device_clock")
    x, bias = from_numpy(np.ones((8, 4), np.float32)), from_numpy(np.ones(4, np.float32))
    run(bias_gelu_forward, x, bias, approximate=1)
    made, block = bias_gelu_forward.made, bias_gelu_forward.block
    with clocks.Form(bias_gelu_forward, block=32):
        run(bias_gelu_forward, x, bias, approximate=1)
        spec, = (plan.spec for form in bias_gelu_forward.made.values() for plan in form.plans.values())
        assert spec.block == 32
    assert (bias_gelu_forward.made, bias_gelu_forward.block) == (made, block)
    a = from_numpy(np.ones((1, 4, 4), np.float32))
    with clocks.Form(matmul, without_vendor=backend):
        gemm(a, a)
        assert not device.cuda.cublas.calls
    gemm(a, a)
    assert device.cuda.cublas.calls


def test_every_case(device: Device, backend: WithReferences, tmp_path: Path) -> None:
    script = import_module("gpu_kernels")
    options = Namespace(backend=backend.name, torch="none", compile=False, variants=True, tiny=True, rounds=1,
                        seconds=0.0, json=tmp_path / "found.json")
    bench = script.Bench(options)
    bench.ceilings()
    for case in [c for c in script.cases(True) if c.dtype == "float32"]:  # references need arithmetic in NumPy
        bench.run(case)
        bench.let_go()
        ways = {row["way"] for row in bench.rows if (row["kernel"], row["dtype"]) == (case.name, "float32")}
        assert ways == {"dualml", *(v.name for v in case.variations)}
    bench.save()
    assert not bench.failed
    assert all(row["ms"] > 0 for row in json.loads(options.json.read_text())["rows"])


def test_launch_times(device: Device, backend: WithReferences) -> None:
    script = import_module("step_kernels")
    options = Namespace(backend=backend.name, precision="float32", batch=2, dropout=0.1, rounds=2)
    found = script.measure(options, layers=1, heads=2, width=16, context=8)
    assert len(found["rows"]) > 10
    assert all(row["us"] == pytest.approx(3000 * row["launches"]) for row in found["rows"])


# ---- the check and its report ---------------------------------------------------------------------------------------

def test_verdicts() -> None:
    targets = import_module("targets")
    speed = targets.Target("attention", "TFLOP/s", 229, 288)
    assert [speed.verdict(x)["reached"] for x in (None, 200.0, 230.0, 290.0)] == ["not measured", "no", "yes",
                                                                                  "yes, both"]
    time = targets.Target("step", "ms", 3.3)
    assert [time.verdict(x)["reached"] for x in (3.2, 3.4)] == ["yes", "no"]
    assert targets.table([speed.verdict(230.0, 250.0, "torch cudnn")])[-1] \
        == "| attention | 229, 288 TFLOP/s | 230 | 250 (torch cudnn) | yes |"


def test_what_a_flag_asks_for_reaches_no_target() -> None:
    found = {name: {"ms_per_step": ms, "ratio_to_torch": 1.0, "ratio_to_compiled": 1.0}
             for name, ms in (("cuda+capture", 3.4), ("cuda+capture+lt", 3.2), ("torch", 9.0))}
    judge = import_module("train_step").verdicts
    assert judge("bfloat16", found)[-1]["reached"] == "no"
    found["cuda+capture+own"] = found.pop("cuda+capture+lt")
    assert judge("bfloat16", found)[-1]["reached"] == "no"


def test_check_reports_what_it_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                   capsys: pytest.CaptureFixture[str]) -> None:
    """After each step, whatever becomes of it; a benchmark that is stopped leaves what it wrote."""
    check, report = import_module("gpu_check"), import_module("gpu_report")
    verdict = import_module("targets").NORM_BACKWARD.verdict(3.0)
    writes = f"import json, sys, time; f = open(sys.argv[2], 'w'); json.dump({dict(rows=[dict(ms=2.5)])} | " \
             f"dict(targets=[{verdict}]), f); f.close(); time.sleep(float(sys.argv[3]))"
    steps = [report.Step("stopped", [sys.executable, "-c", writes, "--json", str(tmp_path / "a.json"), "60"], 2),
             report.Step("failed", [sys.executable, "-c", "raise SystemExit('no such thing')"], 60),
             report.Step("too late", [sys.executable, "-c", ""], 60)]
    seen = []
    monkeypatch.setattr(check, "write", lambda *words: seen.append(report.write(*words)) or seen[-1])
    monkeypatch.setattr(check, "LEAST", 0.5)
    times = iter([0, 1, 2, 99.7])
    monkeypatch.setattr(check.time, "monotonic", lambda: next(times))
    options = Namespace(out=tmp_path, limit=0, within=100)
    text = check.run_all(steps, {"cuda": "Stand-in"}, {}, options)
    assert [s.status for s in steps] == ["stopped after 2 s", "failed", "not run"]
    assert steps[0].seconds < 30
    assert len(seen) == 3
    assert "| norm backward | 2.5 TB/s | 3 | - | yes |" in seen[0]
    for words in ("| failed | failed |", "| too late | not run |", "no such thing", "| 2.5 |", "commit"):
        assert words in text
    assert json.loads((tmp_path / "report.json").read_text())["steps"][0]["numbers"]["rows"] == [{"ms": 2.5}]
    assert "no such thing" in capsys.readouterr().out


def test_check_names_its_steps(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    check = import_module("gpu_check")

    def listed(*words: str) -> list[str]:
        monkeypatch.setattr(sys, "argv", ["gpu_check", "--list", *words])
        assert check.main() == 0
        return [line[:24].strip() for line in capsys.readouterr().out.splitlines()]
    assert listed("--backend", "cuda") == ["tests cuda", "tests cublaslt", "captured cublaslt", "captured cuda small",
                                           "captured cuda 12m", "captured cuda bf16", "step cuda bfloat16",
                                           "kernels cuda", "attention cuda", "launches cuda",
                                           "other launches cuda", "step cuda float32"]
    assert listed("--only", "attention", "kernels") == ["kernels cuda", "attention cuda"]
    assert listed("--first", "speed", "--fast", "--backend", "cuda")[-5:] == [
        "tests cuda", "tests cublaslt", "captured cublaslt", "captured cuda small", "captured cuda bf16"]
