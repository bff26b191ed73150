"""That a run on a GPU cannot mislead: wrong results are told and count for nothing, and what that machine lacks stops
nothing else. Tried without a GPU, like tests/test_benchmarks.py."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from argparse import Namespace
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dualml as dm
from dualml import runtime
from dualml.array import Array, from_numpy
from dualml.ops.matmul import gemm, matmul
from tests.cuda_references import WithReferences, references_compute
from tests.cupy_stand_in import put_in_place

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "benchmarks"
WRONG = "WRONG, error 3.2 times what is allowed"


@pytest.fixture(autouse=True)
def path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [str(FOLDER), *sys.path])


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[WithReferences]:
    """CUDA's backend, where cuBLAS works and kernels compute by their references."""
    put_in_place(monkeypatch, tmp_path)
    with references_compute(monkeypatch) as backend:
        yield backend


# ---- what is timed is right, or said to be wrong --------------------------------------------------------------------

def _projections(dtype: Any) -> tuple[np.ndarray, np.ndarray]:
    """Of 3 sequences of 40 tokens, 3 heads of 64."""
    rng = np.random.default_rng(0)
    return tuple(rng.standard_normal((3, 40, n * 3 * 64), np.float32).astype(dtype) for n in (3, 1))  # type: ignore


@pytest.mark.parametrize("causal", [True, False])
def test_errors_of_attention(causal: bool) -> None:
    """Half of what is allowed is the plain kernel's own. One wrong row of one head shows, and so does NaN."""
    attention = import_module("attention")
    words = (runtime.get("cpu"), *_projections(dm.bfloat16.host), 64, causal)
    data, right = attention.Ours(*words), attention.Right(*words)
    for way, made in (("forward", data.out), ("backward", data.backward())):
        assert right.error(way, made) == pytest.approx(0.5)
        parts = 3 if way == "backward" else 1
        for part in range(parts):
            for value in (0.0, np.nan):
                values = made.numpy().reshape(3, 40, parts, 3, 64)
                values[2, 7, part, 2] = value
                spoiled = from_numpy(values.reshape(-1, 64), backend=runtime.get("cpu"))
                assert not right.error(way, spoiled) <= 1, f"{way}, part {part}"


@pytest.mark.parametrize(("who", "others"), [("dualml", False), ("64x64 by 128", True)])
def test_a_wrong_form_of_attention(who: str, others: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its row and the last words say so; where it is the chosen form, the target is not reached, however fast it is."""
    attention, clock = import_module("attention"), import_module("device_clock")
    attention.ATTENTION[("forward", 64, True, 8)] = import_module("targets").Target("some", "TFLOP/s", 1e-9, 1e-8)
    warm = clock.Contestant.warm

    def spoiled(one: Any) -> None:
        warm(one)
        one.error = 3.2 if one.name == who else one.error
    monkeypatch.setattr(clock.Contestant, "warm", spoiled)
    words = ["--backend", "cpu", "--torch", "none", "--tokens", "16", "--lengths", "8", "--width", "64",
             "--heads", "64", "--rounds", "1", "--seconds", "0", "--count", "1", "--json", str(tmp_path / "found.json")]
    monkeypatch.setattr(sys, "argv", ["attention", *words])
    try:
        with pytest.raises(SystemExit, match=WRONG):
            attention.main()
    finally:
        del attention.ATTENTION[("forward", 64, True, 8)]
    found = json.loads((tmp_path / "found.json").read_text())
    assert {row["name"] for row in found["rows"] if row["check"] == WRONG} == {who}
    assert {row["check"] for row in found["rows"] if row["name"] != who} == {"right"}
    assert [row["reached"] for row in found["targets"]] == ["yes, both" if others else WRONG]


def _kernels(backend: WithReferences, folder: Path) -> Any:
    options = Namespace(backend=backend.name, torch="none", compile=False, variants=False, tiny=True, rounds=1,
                        seconds=0.0, json=folder / "found.json")
    return import_module("gpu_kernels").Bench(options)


@pytest.mark.parametrize("way", ["forward", "dx", "dweight"])
def test_a_wrong_product(way: str, backend: WithReferences, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of our own kernel, which loses the last term of each sum; cuBLAS beside it is right."""
    reference = matmul.reference

    def short(a: np.ndarray, b: np.ndarray, *rest: Any, **n: Any) -> np.ndarray:
        a = a.copy()
        a[(slice(None), -1) if n["ta"] else (..., -1)] = 0
        made: np.ndarray = reference(a, b, *rest, **n)
        return made
    bench = _kernels(backend, tmp_path)
    case = next(c for c in import_module("kernel_cases").cases(True)
                if (c.name, c.dtype) == (f"matmul qkv {way}", "float32"))
    bench.run(case)
    assert [row["check"] for row in bench.rows] == ["right", "right"]
    assert not bench.failed
    matmul.made.pop(backend.name)
    monkeypatch.setattr(matmul, "reference", short)
    bench.run(case)
    ours = {row["way"]: row["check"] for row in bench.rows[2:]}
    assert ours["dualml"] == "right"
    assert ours["own kernel"].startswith("WRONG, error ")
    assert len(bench.failed) == 1
    matmul.made.pop(backend.name)
    monkeypatch.setattr(matmul, "reference", None)  # one that cannot run is no less of a failure
    bench.run(case)
    assert len(bench.rows) == 5
    assert "own kernel: no figure" in bench.failed[1]


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("terms", [2000, 16384])
def test_a_lost_term_among_thousands(terms: int, dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In 16 bits too, where most results are rounded to what they were."""
    cases = import_module("kernel_cases")

    def error(shapes: Any, ta: bool, forward: bool) -> float:
        found: float = cases.product_error(runtime.get("cpu"), shapes, dtype, ta, forward)
        return found

    def short(a: Array, b: Array, *, ta: bool, **options: Any) -> Array:
        cut = a.numpy()
        cut[(slice(None), -1) if ta else (..., -1)] = 0
        return gemm(from_numpy(cut, backend=a.backend), b, ta=ta, **options)
    ways = (((40, terms), (24, terms)), False, True), (((terms, 40), (terms, 24)), True, False)
    assert all(error(*way) <= (1 if dtype == "bfloat16" else 0) for way in ways)
    monkeypatch.setattr(cases, "gemm", short)
    assert all(error(*way) > 1 for way in ways)


def test_the_check_fails_where_a_result_is_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                 capsys: pytest.CaptureFixture[str]) -> None:
    """A benchmark that ends so is a failure; what one says that is stopped before its end is listed all the same."""
    check, report = import_module("gpu_check"), import_module("gpu_report")
    rows = [dict(name="dualml", ms=1.0, check="right"), dict(name="64x64 by 128", ms=0.5, check=WRONG)]
    writes = f"import json, sys, time; json.dump({dict(rows=rows)}, open(sys.argv[2], 'w')); " \
             "time.sleep(int(sys.argv[3])); raise SystemExit('so it is WRONG')"
    steps = [report.Step(name, [sys.executable, "-c", writes, "--json", str(tmp_path / name), wait], limit)
             for name, wait, limit in (("ended", "0", 60), ("stopped", "60", 5))]
    monkeypatch.setattr(check, "LEAST", 1)
    monkeypatch.setattr(check.signal, "signal", lambda *words: None)
    monkeypatch.setattr(check, "found_devices", lambda software: ({"cuda": "Stand-in"}, {}))
    monkeypatch.setattr(check, "plan", lambda usable, options: steps)
    monkeypatch.setattr(sys, "argv", ["gpu_check", "--out", str(tmp_path)])
    assert check.main() == 1
    assert [s.status for s in steps] == ["failed", "stopped after 5 s"]
    said = capsys.readouterr().out
    assert "so it is WRONG" in said
    wrong = said[said.index("## Wrong results"):said.index("## Targets")]
    assert [line.partition(":")[0] for line in wrong.splitlines() if WRONG in line] == ["- ended", "- stopped"]
    assert "dualml" not in wrong


# ---- what that machine lacks or brings ------------------------------------------------------------------------------

@pytest.mark.parametrize("plugins", [[], ["-p", "xdist", "-n", "1"]], ids=["alone", "xdist"])
def test_neither_missing_packages_nor_warnings_stop_tests(tmp_path: Path, plugins: list[str]) -> None:
    """By the command that runs the suite, under this repository's settings, which are strict about both."""
    (tmp_path / "test_lacking.py").write_text("import no_such_package\n")
    (tmp_path / "test_there.py").write_text("import warnings\ndef test_wrong(): assert False\n"
                                            "def test_old(): warnings.warn('old', DeprecationWarning)\n")
    words = [*plugins, "-c", str(ROOT / "pyproject.toml"), "-p", "no:cacheprovider", str(tmp_path)]
    done = subprocess.run([*import_module("gpu_check").PYTEST, *words], cwd=tmp_path, text=True, capture_output=True,
                          timeout=120, env=os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"})
    assert done.returncode == 1, done.stdout
    assert "1 failed, 1 passed, 1 warning, 1 error" in done.stdout
    assert "No module named 'no_such_package'" in done.stdout


def test_what_a_stopped_step_had_found_is_told(tmp_path: Path) -> None:
    """Tests are interrupted before they are killed; half of a file that a benchmark was writing is no figure."""
    check, report = import_module("gpu_check"), import_module("gpu_report")
    (tmp_path / "test_some.py").write_text("import time\ndef test_wrong(): assert False\n"
                                           "def test_hangs(): time.sleep(60)\n")
    halves = "import sys, time; f = open(sys.argv[2], 'w'); f.write('{\"rows\": ['); f.flush(); time.sleep(60)"
    steps = [report.Step("tests", [*check.PYTEST, "-p", "no:cacheprovider", str(tmp_path)], 15),
             report.Step("half", [sys.executable, "-c", halves, "--json", str(tmp_path / "half.json")], 2)]
    for step in steps:
        check.run_step(step, tmp_path, dict(os.environ), step.limit)
        assert step.status == f"stopped after {step.limit} s"
        assert step.seconds < step.limit + check.GRACE
    assert "1 failed" in steps[0].summary
    assert steps[1].numbers == {}
