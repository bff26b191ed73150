"""What only a machine with a GPU can tell, in one run and without a network: `make gpu-check`.

    python benchmarks/gpu_check.py                    parity on real CUDA and Vulkan, then the benchmarks
    python benchmarks/gpu_check.py --no-benchmarks --jobs 8 --out /tmp/report

It needs what is there already: Python with NumPy, ml_dtypes, jinja2 and pytest; CuPy for CUDA; wgpu and a Vulkan loader
for WebGPU. The report goes to OUT/report.md and OUT/report.json. Exit status: 0 all passed, 1 something failed,
2 there is no GPU that a backend can use.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
WORDS = "tests/test_parity.py tests/test_train.py tests/test_random.py tests/test_autograd.py tests/test_nn_torch.py " \
        "tests/test_tensor_torch.py tests/test_shapes.py tests/test_strided.py tests/test_capture.py " \
        "tests/test_program_files.py tests/test_memory.py tests/test_no_growth.py tests/test_profile.py"


@dataclass
class Step:
    """One subprocess of the check. `numbers` is what its --json file said."""

    name: str
    command: list[str]
    status: str = "not run"
    seconds: float = 0.0
    summary: str = ""
    numbers: dict[str, Any] = field(default_factory=dict)


def found_devices(software: bool) -> tuple[dict[str, str], dict[str, str]]:
    """Backends on hardware with their device, and the others with the reason."""
    from dualml import runtime
    from dualml.errors import BackendError
    usable, missing = {}, {}
    for name in ("cuda", "webgpu"):
        try:
            device = runtime.get(name).device
        except BackendError as error:
            missing[name] = str(error)
        else:
            if device.software and not software:
                missing[name] = f"[{name}] {device.name} is a CPU driver, not a GPU."
            else:
                usable[name] = f"{device.name}, {device.driver}"
    return usable, missing


def run_step(step: Step, out: Path, env: dict[str, str], limit: float) -> None:
    """Runs a step, with its output in OUT/<name>.log."""
    log, began = out / f"{step.name.replace(' ', '_')}.log", time.perf_counter()
    print(f"{step.name} ...", flush=True)
    try:
        with log.open("w", encoding="utf-8") as sink:
            code = subprocess.run(step.command, cwd=ROOT, env=env, stdout=sink, stderr=subprocess.STDOUT,
                                  timeout=limit, check=False).returncode
        step.status = "passed" if code == 0 else "failed"
    except subprocess.TimeoutExpired:
        step.status = f"stopped after {limit:.0f} s"
    step.seconds = time.perf_counter() - began
    lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    if "--json" in step.command and step.status == "passed":
        step.summary = "see below"
    elif lines:
        step.summary = re.sub(r"^=+ | =+$", "", lines[-1].strip())
    print(f"  {step.status} in {step.seconds:.0f} s: {step.summary[:200]}", flush=True)


def plan(usable: dict[str, str], options: argparse.Namespace) -> list[Step]:
    """The steps for the backends that are here."""
    python, out = sys.executable, options.out
    modes = [n for n in usable if options.backend in ("", n)]
    parallel = ["-n", str(options.jobs), "--dist", "loadgroup"] if importlib.util.find_spec("xdist") else []
    steps = [Step(f"tests {name}", [python, "-m", "pytest", "-q", *parallel, *WORDS.split(), "-k",
                                    f"{name} and not cuda_on_cpu", *options.pytest.split()]) for name in modes]
    steps += [Step(f"captured {name} {size}", [python, str(ROOT / "benchmarks" / "captured.py"), "--backend", name,
                                               "--config", size, "--json", str(out / f"captured_{name}_{size}.json")])
              for name in modes for size in ("small", "12m")]  # the same bits as eager, which is a check too
    if options.benchmarks:
        if "cuda" in modes:  # only its attention has tensor cores; beside PyTorch's where that is installed
            steps.append(Step("attention cuda", [python, str(ROOT / "benchmarks" / "attention.py"), "--json",
                                                 str(out / "attention_cuda.json")]))
        for name in modes:
            for script, flags in (("matmul", ["--backend", name]),
                                  ("train_step", ["--config", "both", "--backends", name])):
                path = ROOT / "benchmarks" / f"{script}.py"
                steps.append(Step(f"{script} {name}", [python, str(path), *flags, "--json",
                                                       str(out / f"{script}_{name}.json")]))
    return steps


def parity_rows() -> list[str]:
    """The worst results of the parity suite on the GPUs."""
    from tests.parity.report import read_all
    rows = sorted((r for r in read_all() if r.mode in ("cuda", "webgpu")), key=lambda r: -r.worst)
    counted = {m: [r for r in rows if r.mode == m] for m in ("cuda", "webgpu")}
    lines = [f"- {mode}: {len(found)} results, {sum(r.cases for r in found)} cases, {sum(r.failed for r in found)} "
             f"failures, {sum(bool(r.unsupported) for r in found)} refused" for mode, found in counted.items() if found]
    lines += ["", "| op | mode | dtype | worst error / allowed | |", "| --- | --- | --- | ---: | --- |"]
    return lines + [f"| {r.op} | {r.mode} | {r.dtype} | {r.worst:.3g} | {'FAILS' if r.failed else ''} |"
                    for r in rows if r.failed or r in rows[:12]]


def numbers_table(step: Step) -> list[str]:
    """The figures of a benchmark as a table, whatever its columns are."""
    rows = step.numbers.get("rows")
    if rows is None:
        results = step.numbers.get("results", {})
        rows = [{"config": config} | row for config, by_name in results.items() for row in by_name.values()]
    if not rows:
        return []
    columns = [k for k in rows[0] if not isinstance(rows[0][k], (dict, list))]
    text = [[f"{row[c]:.4g}" if isinstance(row.get(c), float) else str(row.get(c)) for c in columns] for row in rows]
    return ["", f"### {step.name}", "", "| " + " | ".join(columns) + " |", "|" + " --- |" * len(columns),
            *["| " + " | ".join(line) + " |" for line in text]]


def report(usable: dict[str, str], missing: dict[str, str], steps: list[Step]) -> str:
    lines = ["# GPU check", "", *[f"- {n}: {d}" for n, d in usable.items()],
             *[f"- without {n}: {r}" for n, r in missing.items()], "",
             "| step | status | seconds | last line |", "| --- | --- | ---: | --- |",
             *[f"| {s.name} | {s.status} | {s.seconds:.0f} | {s.summary.replace('|', '/')[:160]} |" for s in steps],
             "", "## Parity", "", *parity_rows(), "", "## Benchmarks"]
    return "\n".join(lines + [line for s in steps for line in numbers_table(s)]) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backend", choices=("", "cuda", "webgpu"), default="", help="one of them only")
    parser.add_argument("--out", type=Path, default=ROOT / "out" / "gpu_check", help="folder of the report")
    parser.add_argument("--jobs", type=int, default=min(8, os.cpu_count() or 1), help="processes that run tests")
    parser.add_argument("--limit", type=float, default=1500, help="seconds that one step may take")
    parser.add_argument("--pytest", default="", help="more options for pytest")
    parser.add_argument("--software", action="store_true", help="take a CPU driver too, to try this script itself")
    parser.add_argument("--no-benchmarks", dest="benchmarks", action="store_false")
    options = parser.parse_args()
    usable, missing = found_devices(options.software)
    for reason in missing.values():
        print(f"not here: {reason}")
    if not usable or (options.backend and options.backend not in usable):
        print("gpu-check: no GPU that a backend can use; nothing was checked. `make test` runs without one.")
        return 2
    options.out.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(ROOT / "out" / "parity", ignore_errors=True)  # what an earlier run found
    steps = plan(usable, options)
    env = os.environ | {"DUALML_REQUIRE": ",".join(usable), "PYTHONPATH": os.pathsep.join(
        [str(ROOT), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)}
    for step in steps:
        run_step(step, options.out, env, options.limit)
        if "--json" in step.command and Path(step.command[-1]).exists():
            step.numbers = json.loads(Path(step.command[-1]).read_text(encoding="utf-8"))
    text = report(usable, missing, steps)
    (options.out / "report.md").write_text(text, encoding="utf-8")
    found = {"devices": usable, "missing": missing, "steps": [asdict(s) for s in steps]}
    (options.out / "report.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(f"\n{text}")
    return 0 if all(s.status == "passed" for s in steps) else 1


if __name__ == "__main__":
    sys.exit(main())
