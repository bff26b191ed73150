"""What only a machine with a GPU can tell, in one run and without a network: `make gpu-check`.

    python benchmarks/gpu_check.py                          parity on real CUDA and Vulkan, then the benchmarks
    python benchmarks/gpu_check.py --fast --within 540      a first look: the parity suite, some kernels, the step
    python benchmarks/gpu_check.py --only kernels attention --within 540 --out /tmp/report
    python benchmarks/gpu_check.py --first speed            benchmarks first
    python benchmarks/gpu_check.py --list                   the steps' names

It needs what is there already: Python 3.11 or later with dualml's own dependencies (NumPy, ml_dtypes, jinja2, regex,
safetensors, rich) and pytest; CuPy for CUDA; wgpu and a Vulkan loader for WebGPU. Some tests also need hypothesis and
PyTorch: without these, the files that cannot be read are told as errors, the step fails, and the rest of it runs all
the same. pytest-xdist runs tests side by side. Warnings are told and are no failures, as nobody has tried the versions
that are there; `make test` is strict. A benchmark that makes a wrong result fails, and the report lists it.

The report goes to OUT/report.md and OUT/report.json, anew after each step, so that a run that is cut off leaves what it
had. `--within` is for machines where a command may last so long and no longer: each step gets what is left, and those
that would get less than half a minute are not begun. Exit status: 0 all passed, 1 something failed, 2 there is no GPU
that a backend can use.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
sys.path[:0] = [str(HERE), str(ROOT)]

from gpu_report import Step, write  # noqa: E402

PARITY = "tests/test_parity.py"
WORDS = f"{PARITY} tests/test_train.py tests/test_random.py tests/test_autograd.py tests/test_nn_torch.py " \
        "tests/test_tensor_torch.py tests/test_shapes.py tests/test_strided.py tests/test_capture.py " \
        "tests/test_capture_uses.py tests/test_attention_varlen.py tests/test_device_batches.py " \
        "tests/test_precision.py tests/test_program_files.py tests/test_memory.py " \
        "tests/test_no_growth.py tests/test_profile.py"
PYTEST = [sys.executable, "-m", "pytest", "-q", "--continue-on-collection-errors", "-W", "default",
          "-o", "faulthandler_timeout=120"]  # a kernel that hangs: the log says in which test
LEAST = 30  # seconds that a step must be given
GRACE = 10  # seconds that a stopped step has for its last words


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
    """Runs a step and what it started, with its output in OUT/<name>.log."""
    log, began = out / f"{step.name.replace(' ', '_')}.log", time.perf_counter()
    print(f"{step.name} ...", flush=True)
    if step.file is not None:
        step.file.unlink(missing_ok=True)  # of an earlier run
    with log.open("w", encoding="utf-8") as sink:
        process = subprocess.Popen(step.command, cwd=ROOT, env=env, stdout=sink, stderr=subprocess.STDOUT,
                                   process_group=0)
        try:
            step.status = "passed" if process.wait(timeout=limit) == 0 else "failed"
        except subprocess.TimeoutExpired:
            step.status = f"stopped after {limit:.0f} s"
            interrupt(process)
        finally:
            if process.poll() is None:
                kill(process)
    step.seconds = time.perf_counter() - began
    lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    step.read()
    if step.file is not None and step.status == "passed":
        step.summary = "see below"
    elif lines:
        step.summary = re.sub(r"^=+ | =+$", "", lines[-1].strip())
    print(f"  {step.status} in {step.seconds:.0f} s: {step.summary[:200]}", flush=True)
    if step.status == "failed":
        print("\n".join(f"    {line[:200]}" for line in lines[-12:]), flush=True)


def interrupt(process: subprocess.Popen[bytes]) -> None:
    """So that pytest tells what failed so far, before it is killed."""
    os.killpg(process.pid, signal.SIGINT)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(timeout=GRACE)
    kill(process)


def kill(process: subprocess.Popen[bytes]) -> None:
    """And its workers: they hold the device."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def tests(backend: str, options: argparse.Namespace) -> Step:
    """The parity suite and others, with only the plugins that it needs: nobody has tried those of that machine."""
    plugins = ["-p", "xdist", "-n", str(options.jobs), "--dist", "loadgroup"] if importlib.util.find_spec("xdist") \
        else []
    files = [PARITY] if options.fast else WORDS.split()
    return Step(f"tests {backend}", [*PYTEST, *plugins, *files, "-k", f"{backend} and not cuda_on_cpu",
                                     *options.pytest.split()], 270 if options.fast else 1500)


def by_cublaslt(options: argparse.Namespace) -> list[Step]:
    """Products again, and a captured step, where cuBLASLt does more with them. What this finds is no part of the
    report's parity, which is that of what runs by default."""
    step = script("captured", "captured cublaslt", 120, options, "--backend", "cuda", "--config", "small",
                  "--precision", "bfloat16")
    apart = f"PARITY_FOLDER={ROOT / 'out' / 'parity_cublaslt'}"
    return [Step("tests cublaslt", ["env", "DUALML_CUBLASLT=1", apart, *PYTEST, PARITY, "-k",
                                    "cuda and not cuda_on_cpu and not without and (linear or matmul)",
                                    *options.pytest.split()], 180),
            Step(step.name, ["env", "DUALML_CUBLASLT=1", *step.command], step.limit)]


def script(name: str, label: str, limit: float, options: argparse.Namespace, *words: str) -> Step:
    file = options.out / f"{label.replace(' ', '_')}.json"
    return Step(label, [sys.executable, str(HERE / f"{name}.py"), *words, "--json", str(file)], limit)


def captured(backend: str, options: argparse.Namespace) -> list[Step]:
    """The same bits as eager, which is a check too; on CUDA with branches and without, in bfloat16 too."""
    sizes = ("small",) if options.fast else ("small", "12m")
    runs = [(size, size, "float32") for size in sizes] + [("bf16", sizes[-1], "bfloat16")] * (backend == "cuda")
    return [script("captured", f"captured {backend} {name}", 300, options, "--backend", backend, "--config", size,
                   "--precision", precision) for name, size, precision in runs]


def speed_of_cuda(options: argparse.Namespace) -> list[Step]:
    """The step beside torch.compile, kernels, attention: the targets."""
    fast = options.fast
    step = ["--config", "12m-gpu", "--warm", "--seconds", "1", "--patience", "300"]
    less = ["--torch-modes", "none,reduce-overhead", "--backends", "cuda,cuda+capture,cuda+capture+lt,cuda+capture+own",
            "--rounds", "3"] if fast else []
    steps = [script("train_step", "step cuda bfloat16", 540, options, *step, *less, "--precision", "bfloat16"),
             script("gpu_kernels", "kernels cuda", 540, options, "--fast" if fast else "--variants"),
             script("attention", "attention cuda", 420, options,
                    *(("--heads", "64", "--no-tiles", "--rounds", "3") if fast else ())),
             script("step_kernels", "launches cuda", 180, options)]
    if not fast:
        steps += [script("other_kernels", "other launches cuda", 240, options),
                  script("train_step", "step cuda float32", 540, options, *step, "--precision", "float32")]
    return steps


def speed_of_webgpu(options: argparse.Namespace) -> list[Step]:
    return [script("matmul", "matmul webgpu", 420, options, "--backend", "webgpu"),
            script("train_step", "step webgpu", 540, options, "--config", "small" if options.fast else "both",
                   "--backends", "webgpu,webgpu+capture")]


def plan(usable: dict[str, str], options: argparse.Namespace) -> list[Step]:
    """The steps for the backends that are here."""
    modes = [n for n in usable if options.backend in ("", n)]
    checks = [tests(name, options) for name in modes] + (by_cublaslt(options) if "cuda" in modes else [])
    checks += [s for name in modes for s in captured(name, options)]
    speed = []
    if options.benchmarks:
        speed += speed_of_cuda(options) if "cuda" in modes else []
        speed += speed_of_webgpu(options) if "webgpu" in modes else []
    steps = speed + checks if options.first == "speed" else checks + speed
    return [s for s in steps if not options.only or any(word in s.name for word in options.only)]


def run_all(steps: list[Step], usable: dict[str, str], missing: dict[str, str], options: argparse.Namespace) -> str:
    """Returns the report."""
    began, parity = time.monotonic(), any(s.name.startswith("tests") for s in steps)
    if parity:
        shutil.rmtree(ROOT / "out" / "parity", ignore_errors=True)  # what an earlier run found
    env = os.environ | {"DUALML_REQUIRE": ",".join(usable), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
                        "PYTHONUNBUFFERED": "1", "PYTHONPATH": os.pathsep.join(
                            [str(ROOT), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)}
    text = ""
    for step in steps:
        limit = options.limit or step.limit
        if options.within:
            limit = min(limit, options.within - GRACE - (time.monotonic() - began))
        if limit >= min(LEAST, options.limit or LEAST):
            run_step(step, options.out, env, limit)
        text = write(options.out, usable, missing, steps, parity)
    return text


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backend", choices=("", "cuda", "webgpu"), default="", help="one of them only")
    parser.add_argument("--only", nargs="+", metavar="WORD", help="steps whose name has one of these words")
    parser.add_argument("--first", choices=("parity", "speed"), default="parity", help="what runs first")
    parser.add_argument("--fast", action="store_true", help="a first look: fewer tests, sizes and rounds")
    parser.add_argument("--list", action="store_true", help="name the steps and their limits, run nothing")
    parser.add_argument("--out", type=Path, default=ROOT / "out" / "gpu_check", help="folder of the report")
    parser.add_argument("--jobs", type=int, default=min(16, os.cpu_count() or 1), help="processes that run tests")
    parser.add_argument("--limit", type=float, default=0, help="seconds that one step may take, in place of its own")
    parser.add_argument("--within", type=float, default=0, help="seconds for all of it")
    parser.add_argument("--pytest", default="", help="more options for pytest")
    parser.add_argument("--software", action="store_true", help="take a CPU driver too, to try this script itself")
    parser.add_argument("--no-benchmarks", dest="benchmarks", action="store_false")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the step at work is ended too
    options.out = options.out.resolve()  # steps run in the repository
    usable, missing = ({"cuda": "", "webgpu": ""}, {}) if options.list else found_devices(options.software)
    for reason in missing.values():
        print(f"not here: {reason}")
    if not usable or (options.backend and options.backend not in usable):
        print("gpu-check: no GPU that a backend can use; nothing was checked. `make test` runs without one.")
        return 2
    steps = plan(usable, options)
    if options.list or not steps:
        print("\n".join(f"{s.name:24s} {s.limit:5.0f} s  {' '.join(s.command[1:])[:160]}" for s in steps)
              or f"no step has one of {options.only} in its name; --list names them")
        return 0 if steps else 2
    options.out.mkdir(parents=True, exist_ok=True)
    print(f"\n{run_all(steps, usable, missing, options)}")
    return 0 if all(s.status == "passed" for s in steps) else 1


if __name__ == "__main__":
    sys.exit(main())
