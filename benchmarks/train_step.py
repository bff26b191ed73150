"""Tokens/s of a GPT training step (forward, backward, AdamW, float32): dualml's backends, PyTorch and tinygrad.

    python benchmarks/train_step.py                                   the small GPT on every backend that is here
    python benchmarks/train_step.py --config 12m --backends webgpu
    python benchmarks/train_step.py --torch-python P --tinygrad-python Q --dawn libwebgpu_dawn_x86_64.so

Every contestant is a process of its own with caches of its own, empty at the start, so that the first step is a cold
one. They take their steps in turn, and what counts is the median over the rounds of the ratio to the reference, since
a busy machine slows all of a round alike. Contestants that are not installed are named, not left out in silence.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
CONFIGS: dict[str, dict[str, int]] = {
    "small": dict(layers=4, heads=4, width=128, context=64, vocab=512, batch=16),
    "12m": dict(layers=6, heads=6, width=384, context=256, vocab=4096, batch=4, head_bias=1),
}
REFERENCE = "torch"


@dataclass
class Contestant:
    """A worker process. `rounds` are its tokens/s, round by round."""

    name: str
    process: Any
    ready: dict[str, Any]
    rounds: list[float] = field(default_factory=list)
    processor: list[float] = field(default_factory=list)  # processor seconds per step
    steps: int = 1

    def ask(self, steps: int) -> dict[str, Any]:
        self.process.stdin.write(f"{steps}\n")
        self.process.stdin.flush()
        return _answer(self.process)


def _answer(process: Any) -> dict[str, Any]:
    line = process.stdout.readline()
    if not line:
        process.log.seek(0)
        raise RuntimeError((process.log.read().strip().splitlines() or ["it ended without a word"])[-1])
    answer: dict[str, Any] = json.loads(line)
    return answer


def _start(name: str, python: str, script: str, backend: str, sizes: dict[str, int], extra: dict[str, str],
           folder: Path) -> Contestant:
    cache = tempfile.mkdtemp(dir=folder)
    environment = os.environ | {"XDG_CACHE_HOME": cache, "DUALML_CACHE": cache, "MESA_SHADER_CACHE_DIR": cache,
                                "CACHEDB": f"{cache}/tinygrad.db"} | extra
    environment["PYTHONPATH"] = os.pathsep.join([str(HERE.parent), environment.get("PYTHONPATH", "")])
    options = [f"--{k.replace('_', '-')}={v}" for k, v in sizes.items()]
    log = open(f"{cache}/stderr", "w+")  # noqa: SIM115 (read when the process ends)
    process: Any = subprocess.Popen([python, str(HERE / "steppers" / script), f"--backend={backend}", *options],
                                    stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True,
                                    env=environment)
    process.log = log
    return Contestant(name, process, _answer(process))


def _candidates(options: argparse.Namespace) -> list[tuple[str, str, str, str, dict[str, str]]]:
    """Name, Python, script, backend and environment of everyone asked for."""
    found = [(b, sys.executable, "step_dualml.py", b, {}) for b in options.backends.split(",") if b]
    if not options.no_rivals:
        if options.torch_python or find_spec("torch"):
            found.append(("torch", options.torch_python or sys.executable, "step_torch.py", "cpu", {}))
        else:
            print("torch: not installed here; pass --torch-python PATH")
        if options.tinygrad_python or find_spec("tinygrad"):
            dawn = {"DEV": "WEBGPU", "WEBGPU_PATH": options.dawn} if options.dawn else {}
            found.append(("tinygrad", options.tinygrad_python or sys.executable, "step_tinygrad.py", "webgpu", dawn))
        else:
            print("tinygrad: not installed here; pass --tinygrad-python PATH and --dawn LIBRARY")
    return found


def _default_backends() -> str:
    from dualml import errors, runtime
    found = []
    for name in ("cpu", "webgpu", "cuda"):
        try:
            runtime.get(name)
            found += [name, f"{name}+capture"]
        except errors.BackendError as error:
            print(f"{name}: {error}")
    return ",".join(found)


def _play(config: str, options: argparse.Namespace, sizes: dict[str, int], team: list[Contestant],
          folder: Path) -> None:
    """Fills `team`, the one after the other cold, then lets all of them step in turn."""
    tokens = sizes["batch"] * sizes["context"]
    for name, python, script, backend, extra in _candidates(options):
        try:
            made = _start(name, python, script, backend, sizes, extra, folder)
        except (RuntimeError, OSError) as error:
            print(f"{name}: could not start: {error}")
            continue
        team.append(made)
        for _ in range(2):  # jits record on the second step and replay from the third
            pace = made.ask(1)["seconds"]
        made.steps = max(1, min(50, round(options.seconds / pace)))
        print(f"{config}: {made.ready['ready']}, {made.ready['parameters']:,} parameters, first step "
              f"{made.ready['first_step']:.2f} s")
    for _ in range(options.rounds):
        for one in team:
            answer = one.ask(one.steps)
            one.rounds.append(one.steps * tokens / answer["seconds"])
            one.processor.append(answer["processor"] / one.steps)


def measure(config: str, options: argparse.Namespace) -> dict[str, Any]:
    """Starts everyone, lets them step in turn, and returns the figures by name."""
    sizes = dict(CONFIGS[config])
    if options.batch:
        sizes["batch"] = options.batch
    team: list[Contestant] = []
    with tempfile.TemporaryDirectory(prefix="train_step-") as folder:
        try:
            _play(config, options, sizes, team, Path(folder))
        finally:
            for one in team:
                one.process.kill()
                one.process.wait()
    base = next((c for c in team if c.name == REFERENCE), None)
    return {c.name: {
        "label": c.ready["ready"], "parameters": c.ready["parameters"], "first_step_seconds": c.ready["first_step"],
        "tokens_per_second": statistics.median(c.rounds), "best": max(c.rounds),
        "processor_seconds_per_step": statistics.median(c.processor),
        "ratio_to_torch": _ratio(c, base),
    } for c in team}


def _ratio(one: Contestant, base: Contestant | None) -> float | None:
    if base is None:
        return None
    return statistics.median(a / b for a, b in zip(one.rounds, base.rounds, strict=True))


def show(config: str, sizes: dict[str, int], figures: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table
    shape = f"{sizes['layers']} layers, width {sizes['width']}, batch {sizes['batch']} x {sizes['context']}"
    table = Table(title=f"Training step, {config}: {shape}, vocabulary {sizes['vocab']}, float32", title_justify="left")
    for column in ("", "tokens/s, median", "best", "to PyTorch", "processor time a step", "first step, cold caches"):
        table.add_column(column, justify="left" if not column else "right")
    for row in figures.values():
        ratio = "-" if row["ratio_to_torch"] is None else f"{row['ratio_to_torch']:.2f}"
        table.add_row(row["label"], f"{row['tokens_per_second']:,.0f}", f"{row['best']:,.0f}", ratio,
                      f"{row['processor_seconds_per_step'] * 1e3:,.0f} ms", f"{row['first_step_seconds']:.2f} s")
    Console(width=max(100, Console().width)).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", choices=[*CONFIGS, "both"], default="small")
    parser.add_argument("--backends", help="comma-separated, each also as NAME+capture; default: all that are here")
    parser.add_argument("--batch", type=int, help="instead of the configuration's own")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each contestant in a round, about")
    parser.add_argument("--no-rivals", action="store_true", help="dualml's backends only")
    parser.add_argument("--torch-python", help="a Python that has torch (default: this one, if it has)")
    parser.add_argument("--tinygrad-python", help="a Python that has tinygrad")
    parser.add_argument("--dawn", help="libwebgpu_dawn for tinygrad, which then runs on WEBGPU")
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()
    options.backends = options.backends or _default_backends()
    results = {}
    for config in CONFIGS if options.config == "both" else [options.config]:
        results[config] = measure(config, options)
        show(config, CONFIGS[config] | ({"batch": options.batch} if options.batch else {}), results[config])
    if options.json:
        host = {"machine": platform.machine(), "cores": os.cpu_count(), "system": platform.system()}
        options.json.write_text(json.dumps({"host": host, "results": results}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.path.insert(0, str(HERE.parent))
    main()
