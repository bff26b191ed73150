"""Tokens/s of a GPT training step (forward, backward, AdamW): dualml's backends, PyTorch and tinygrad.

    python benchmarks/train_step.py                                   the small GPT on every backend that is here
    python benchmarks/train_step.py --config 12m --backends webgpu
    python benchmarks/train_step.py --torch-python P --tinygrad-python Q --dawn libwebgpu_dawn_x86_64.so
    python benchmarks/train_step.py --config 12m-gpu --precision bfloat16       on one GPU, beside torch.compile

Every contestant is a process of its own with caches of its own, empty at the start, so that the first step is a cold
one. They take their steps in turn, and what counts is the median over the rounds of the ratio to the reference, since
a busy machine slows all of a round alike. Contestants that are not installed are named, not left out in silence.

12m-gpu is the 12.3M GPT at 64 x 256 = 16,384 tokens, with dropout 0.1 and clipping at 1. Nobody waits for the device
but at the end of a round. PyTorch runs on CUDA, eager and by torch.compile's modes, with its fastest attention and
fused AdamW; float32 is without TF32. The file is written after each round.
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
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE)]

from targets import STEP_COMPILED, STEP_EAGER, STEP_TIME, table as targets_table  # noqa: E402

GPU = dict(dropout=0.1, clip=1.0, wait="end")
CONFIGS: dict[str, dict[str, Any]] = {
    "small": dict(layers=4, heads=4, width=128, context=64, vocab=512, batch=16),
    "12m": dict(layers=6, heads=6, width=384, context=256, vocab=4096, batch=4, head_bias=1),
    "12m-gpu": dict(layers=6, heads=6, width=384, context=256, vocab=4096, batch=64, head_bias=1, **GPU),
    "tiny-gpu": dict(layers=1, heads=2, width=16, context=8, vocab=32, batch=2, head_bias=1, **GPU),  # tries the script
}
MODES = "none,reduce-overhead,max-autotune"  # torch.compile's, on a GPU
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

    def ask(self, steps: int, patience: float) -> dict[str, Any]:
        self.process.stdin.write(f"{steps}\n")
        self.process.stdin.flush()
        return _answer(self.process, patience)


def _answer(process: Any, patience: float) -> dict[str, Any]:
    timer = threading.Timer(patience, process.kill)
    began = time.monotonic()
    timer.start()
    line = process.stdout.readline()
    timer.cancel()
    if not line:
        if time.monotonic() - began >= patience:
            raise RuntimeError(f"no answer within {patience:.0f} s")
        process.log.seek(0)
        raise RuntimeError((process.log.read().strip().splitlines() or ["it ended without a word"])[-1])
    answer: dict[str, Any] = json.loads(line)
    return answer


def _start(candidate: Candidate, sizes: dict[str, Any], folder: Path, patience: float, warm: bool) -> Contestant:
    cache = tempfile.mkdtemp(dir=folder)
    own = {"XDG_CACHE_HOME": cache, "DUALML_CACHE": cache, "MESA_SHADER_CACHE_DIR": cache,
           "CACHEDB": f"{cache}/tinygrad.db", "TORCHINDUCTOR_CACHE_DIR": f"{cache}/inductor",
           "TRITON_CACHE_DIR": f"{cache}/triton"}
    environment = os.environ | ({} if warm else own) | candidate.environment
    environment["PYTHONPATH"] = os.pathsep.join([str(HERE.parent), environment.get("PYTHONPATH", "")])
    options = [f"--{k.replace('_', '-')}={v}" for k, v in (sizes | candidate.options).items()]
    log = open(f"{cache}/stderr", "w+")  # noqa: SIM115 (read when the process ends)
    process: Any = subprocess.Popen([candidate.python, str(HERE / "steppers" / candidate.script), *options],
                                    stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True,
                                    env=environment)
    process.log = log
    return Contestant(candidate.name, process, _answer(process, patience))


@dataclass
class Candidate:
    """Who may take part, and how its worker is started."""

    name: str
    python: str
    script: str
    options: dict[str, Any]
    environment: dict[str, str] = field(default_factory=dict)


def _candidates(options: argparse.Namespace, gpu: bool) -> list[Candidate]:
    """Everyone asked for."""
    found = [Candidate(b, sys.executable, "step_dualml.py", {"backend": b}) for b in options.backends.split(",") if b]
    if options.no_rivals:
        return found
    if options.torch_python or find_spec("torch"):
        device = options.torch_device or ("cuda" if gpu else "cpu")
        for mode in (options.torch_modes or (MODES if gpu else "none")).split(","):
            given = {"device": device, "compile": mode, "attention": "best" if device == "cuda" else "auto"}
            found.append(Candidate("torch" if mode == "none" else f"torch {mode}",
                                   options.torch_python or sys.executable, "step_torch.py", given))
    else:
        print("torch: not installed here; pass --torch-python PATH")
    if gpu:
        return found
    if options.tinygrad_python or find_spec("tinygrad"):
        dawn = {"DEV": "WEBGPU", "WEBGPU_PATH": options.dawn} if options.dawn else {}
        found.append(Candidate("tinygrad", options.tinygrad_python or sys.executable, "step_tinygrad.py", {}, dawn))
    else:
        print("tinygrad: not installed here; pass --tinygrad-python PATH and --dawn LIBRARY")
    return found


def _default_backends(gpu: bool) -> str:
    if gpu:
        return "cuda,cuda+capture,cuda+capture1,cuda+capture+lt,cuda+capture+own"
    from dualml import errors, runtime
    found = []
    for name in ("cpu", "webgpu", "cuda"):
        try:
            runtime.get(name)
            found += [name, f"{name}+capture"]
        except errors.BackendError as error:
            print(f"{name}: {error}")
    return ",".join(found)


def _play(config: str, options: argparse.Namespace, sizes: dict[str, Any], team: list[Contestant], folder: Path,
          after: Callable[[], None]) -> None:
    """Fills `team`, the one after the other cold, then lets all of them step in turn; `after` each round."""
    tokens = sizes["batch"] * sizes["context"]
    for candidate in _candidates(options, _is_gpu(config)):
        try:
            made = _start(candidate, sizes, folder, options.patience, options.warm)
            for _ in range(2):  # jits record on the second step and replay from the third
                pace = made.ask(1, options.patience)["seconds"]
            if sizes.get("wait") == "end":  # a step alone is not the pace of many
                pace = made.ask(10, options.patience)["seconds"] / 10
        except (RuntimeError, OSError) as error:
            print(f"{candidate.name}: could not start: {error}", flush=True)
            continue
        team.append(made)
        most = 1000 if sizes.get("wait") == "end" else 50
        made.steps = max(1, min(most, round(options.seconds / pace)))
        print(f"{config}: {made.ready['ready']}, {made.ready['parameters']:,} parameters, first step "
              f"{made.ready['first_step']:.2f} s", flush=True)
    for _ in range(options.rounds):
        for one in list(team):
            try:
                answer = one.ask(one.steps, options.patience)
            except (RuntimeError, OSError) as error:
                print(f"{one.name}: {error}", flush=True)
                one.process.kill()
                team.remove(one)
                continue
            one.rounds.append(one.steps * tokens / answer["seconds"])
            one.processor.append(answer["processor"] / one.steps)
        after()


def _is_gpu(config: str) -> bool:
    return CONFIGS[config].get("wait") == "end"


def measure(config: str, sizes: dict[str, Any], options: argparse.Namespace,
            keep: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """Starts everyone, lets them step in turn, and returns the figures by name; those so far go to `keep`."""
    team: list[Contestant] = []
    with tempfile.TemporaryDirectory(prefix="train_step-", ignore_cleanup_errors=True) as folder:
        try:
            _play(config, options, sizes, team, Path(folder), lambda: keep(figures(team, sizes)))
        finally:
            for one in team:
                one.process.kill()
                one.process.wait()
    return figures(team, sizes)


def figures(team: list[Contestant], sizes: dict[str, Any]) -> dict[str, Any]:
    """By name."""
    base = next((c for c in team if c.name == REFERENCE), None)
    compiled = [c for c in team if c.name.startswith(REFERENCE + " ")]
    best = max(compiled, key=lambda c: statistics.median(c.rounds), default=None)
    found = {c.name: {
        "label": c.ready["ready"], "parameters": c.ready["parameters"], "first_step_seconds": c.ready["first_step"],
        "tokens_per_second": statistics.median(c.rounds), "best": max(c.rounds),
        "processor_seconds_per_step": statistics.median(c.processor),
        "ratio_to_torch": _ratio(c, base),
    } for c in team}
    for one in team if "wait" in sizes else ():
        found[one.name] |= {"ms_per_step": sizes["batch"] * sizes["context"] * 1e3 / statistics.median(one.rounds),
                            "ratio_to_compiled": _ratio(one, best), "loss": one.ready["loss"]}
    return found


def verdicts(precision: str, found: dict[str, Any]) -> list[dict[str, Any]]:
    """The best captured step beside the targets; what is asked for (+lt, +own) does not count."""
    ours = min((n for n in found if "+capture" in n and not {"lt", "own"} & {*n.split("+")}),
               key=lambda n: found[n]["ms_per_step"], default=None)
    if ours is None:
        return []
    row, times = found[ours], {n: f["ms_per_step"] for n, f in found.items() if n.startswith(REFERENCE)}
    best = min(times, key=lambda n: times[n], default="")
    made = [STEP_EAGER.verdict(row["ratio_to_torch"]), STEP_COMPILED.verdict(row["ratio_to_compiled"])]
    made = [m | {"target": f"{m['target']}, {precision}"} for m in made]
    if precision == "bfloat16":
        made.append(STEP_TIME.verdict(row["ms_per_step"], times.get(best), best))
    return made


def _ratio(one: Contestant, base: Contestant | None) -> float | None:
    if base is None:
        return None
    return statistics.median(a / b for a, b in zip(one.rounds, base.rounds, strict=True))


def show(config: str, sizes: dict[str, Any], figures: dict[str, Any], warm: bool = False) -> None:
    from rich.console import Console
    from rich.table import Table
    shape = f"{sizes['layers']} layers, width {sizes['width']}, batch {sizes['batch']} x {sizes['context']}"
    table = Table(title=f"Training step, {config}: {shape}, vocabulary {sizes['vocab']}, "
                        f"{sizes.get('precision', 'float32')}", title_justify="left")
    gpu = "wait" in sizes
    for column in ("", "tokens/s, median", "best", "to PyTorch", *(("to compiled", "ms a step") if gpu else ()),
                   "processor time a step", "first step" if warm else "first step, cold caches"):
        table.add_column(column, justify="left" if not column else "right")
    for row in figures.values():
        ratio, compiled = ("-" if row.get(f"ratio_to_{n}") is None else f"{row[f'ratio_to_{n}']:.2f}"
                           for n in ("torch", "compiled"))
        table.add_row(row["label"], f"{row['tokens_per_second']:,.0f}", f"{row['best']:,.0f}", ratio,
                      *((compiled, f"{row['ms_per_step']:.3f}") if gpu else ()),
                      f"{row['processor_seconds_per_step'] * 1e3:,.{1 if gpu else 0}f} ms",
                      f"{row['first_step_seconds']:.2f} s")
    Console(width=max(140 if gpu else 100, Console().width)).print(table)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", choices=[*CONFIGS, "both"], default="small",
                        help="both: small and 12m")
    parser.add_argument("--backends", help="comma-separated, each also as NAME+capture, cuda with +lt for cuBLASLt's "
                        "epilogues or +own for our products; default: all that are here")
    parser.add_argument("--batch", type=int, help="instead of the configuration's own")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each contestant in a round, about")
    parser.add_argument("--no-rivals", action="store_true", help="dualml's backends only")
    parser.add_argument("--torch-python", help="a Python that has torch (default: this one, if it has)")
    parser.add_argument("--tinygrad-python", help="a Python that has tinygrad")
    parser.add_argument("--dawn", help="libwebgpu_dawn for tinygrad, which then runs on WEBGPU")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), nargs="+", default=["bfloat16", "float32"],
                        help="of a GPU's configuration: one run each")
    parser.add_argument("--torch-device", choices=("cpu", "cuda"), help="default: cuda for a GPU's configuration")
    parser.add_argument("--torch-modes", help=f"torch.compile's, and none for eager; on a GPU {MODES}, else none")
    parser.add_argument("--warm", action="store_true", help="with the caches that are here: no cold first steps")
    parser.add_argument("--patience", type=float, default=600, help="seconds that a contestant may be silent")
    parser.add_argument("--json", type=Path, help="write the figures here")
    return parser.parse_args()


def main() -> None:
    options = parsed()
    plays = [(config, precision) for config in (["small", "12m"] if options.config == "both" else [options.config])
             for precision in (options.precision if _is_gpu(config) else [None])]
    options.backends = options.backends or _default_backends(_is_gpu(plays[0][0]))
    host = {"machine": platform.machine(), "cores": os.cpu_count(), "system": platform.system()}
    results: dict[str, Any] = {}
    targets: list[dict[str, Any]] = []

    def save() -> None:
        if options.json:
            found = {"host": host, "results": results} | ({"targets": targets} if targets else {})
            partial = options.json.with_suffix(".part")  # a run that is stopped leaves the figures of the round before
            partial.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
            partial.replace(options.json)

    for config, precision in plays:
        sizes = dict(CONFIGS[config]) | ({"batch": options.batch} if options.batch else {})
        name = config
        if precision:
            sizes, name = sizes | {"precision": precision}, f"{config} {precision}"

        def keep(found: dict[str, Any], name: str = name) -> None:
            results[name] = found
            save()
        keep(measure(config, sizes, options, keep))
        if precision:
            targets += verdicts(precision, results[name])
        save()
        show(config, sizes, results[name], options.warm)
    if targets:
        print("\n".join(targets_table(targets)))


if __name__ == "__main__":
    sys.path.insert(0, str(HERE.parent))
    main()
