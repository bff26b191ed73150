"""A training step as Python runs it, captured, and loaded from a file: the same bits, and milliseconds of each.

    python benchmarks/captured.py --backend cuda --json captured.json
    python benchmarks/captured.py --backend webgpu --pictures docs/images     draws a step as eager and as captured
    python benchmarks/captured.py --backend cpu --profile                     tells where an eager step's time goes

The step is that of a small GPT, or of the 12.3M one with --config 12m; with --precision under autocast. Each way gets
the same batches from the same seed; losses must agree to the last bit, or the exit status is 1. On CUDA a captured step
is a CUDA graph: recorded on one stream a chain, on more with branches where launches do not need one another.

Host time is what the calling thread computes in a step, Python and driver, waiting for the device left out; the mean,
since webgpu encodes 16 replays at once: take a multiple of 16 steps.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import dualml as dm
from dualml import amp, optim, runtime
from dualml.models import GPT, GPTConfig

CONFIGS = {"tiny": (GPTConfig(vocab_size=64, context=32, layers=2, heads=2, width=32), 2),
           "small": (GPTConfig(vocab_size=512, context=64, layers=4, heads=4, width=128, dropout=0.1), 16),
           "12m": (GPTConfig(vocab_size=4096, context=256, layers=6, heads=6, width=384, dropout=0.1), 4)}
WARM = 3  # two recorded calls, and one more

Step = Callable[..., Any]


def make_step(config: GPTConfig, precision: str) -> Step:
    dm.manual_seed(0)
    model = GPT(config)
    optimizer = optim.AdamW(model.parameters(), 1e-3)

    def step(tokens: Any, targets: Any) -> dm.Tensor:
        with amp.autocast(precision):
            loss: dm.Tensor = model(*[t if isinstance(t, dm.Tensor) else dm.tensor(t) for t in (tokens, targets)])[1]
        optimizer.zero_grad()
        loss.backward()
        optim.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return loss
    return step


def timed(step: Step, batches: list[tuple[Any, Any]]) -> tuple[list[float], list[float], list[float]]:
    """Losses, milliseconds of each step with its end awaited, and those of the calling thread alone."""
    losses, taken, host = [], [], []
    for tokens, targets in batches:
        start, own = time.perf_counter(), time.thread_time()
        loss = step(tokens, targets)
        host.append((time.thread_time() - own) * 1e3)
        losses.append(loss.item())
        taken.append((time.perf_counter() - start) * 1e3)
    return losses, taken, host


def row(way: str, taken: list[float], host: list[float], launches: int, same: bool) -> dict[str, Any]:
    return {"way": way, "ms": statistics.median(taken), "host ms": statistics.mean(host), "launches": launches,
            "bits equal": same}


def compare(config: GPTConfig, precision: str, batch: int, steps: int) -> list[dict[str, Any]]:
    rng = np.random.default_rng(0)
    shape = (batch, config.context)
    batches = [tuple(rng.integers(0, config.vocab_size, shape).astype(np.int32) for _ in range(2))
               for _ in range(WARM + 2 * steps)]
    eager, *times = timed(make_step(config, precision), batches)
    rows = []
    backend = runtime.current()
    usual = backend.streams
    for streams in (1, 2, 3) if usual > 1 else (1,):
        backend.streams = streams
        captured = dm.capture(make_step(config, precision))
        found, *new = timed(captured, batches[:WARM + steps])
        program = captured.programs[0]
        rows.append(row(f"captured, {streams} stream{'s' * (streams > 1)}" if usual > 1 else "captured", new[0][WARM:],
                        new[1][WARM:], program.launches, found == eager[:WARM + steps]))
    backend.streams = usual
    rows.insert(0, row("eager", times[0][WARM:], times[1][WARM:], program.recorded, True))
    with tempfile.TemporaryDirectory() as folder:
        captured.programs[0].save(Path(folder) / "program")
        loaded = dm.load_program(Path(folder) / "program")
    found, *times = timed(loaded, batches[WARM + steps:])
    return [*rows, row("loaded", *times, loaded.program.launches, found == eager[WARM + steps:])]


def shortest(step: Any, config: GPTConfig, batch: int) -> Any:
    """The profile of the shortest of some steps."""
    x = np.random.default_rng(0).integers(0, config.vocab_size, (batch, config.context)).astype(np.int32)
    tokens, found = dm.tensor(x), []
    for _ in range(12):
        with dm.profile() as profile:
            step(tokens, tokens)
        found.append(profile)
    return min(found[WARM:], key=lambda p: p.span)


def draw(config: GPTConfig, precision: str, batch: int, folder: Path, title: str) -> None:
    """A step of each way, as a timeline."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("eager", "captured"):
        step = make_step(config, precision)
        step = dm.capture(step) if name == "captured" else step
        shortest(step, config, batch).timeline(folder / f"step_{name}.svg", f"{name}, {title}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--config", choices=CONFIGS, default="small")
    parser.add_argument("--precision", choices=amp.PRECISIONS, default="float32")
    parser.add_argument("--steps", type=int, default=32, help="timed steps of each way")
    parser.add_argument("--json", type=Path, help="write the rows here")
    parser.add_argument("--profile", action="store_true", help="kernels of an eager step by time, and no timing")
    parser.add_argument("--pictures", type=Path, help="folder for step_eager.svg and step_captured.svg, and no timing")
    options = parser.parse_args()
    dm.set_backend(options.backend)
    device = runtime.current().device
    config, batch = CONFIGS[options.config]
    if options.profile:
        print(shortest(make_step(config, options.precision), config, batch).table())
        return 0
    if options.pictures:
        title = runtime.current().name + " on a CPU driver" * device.software
        draw(config, options.precision, batch, options.pictures, title)
        return 0
    rows = [{"backend": runtime.current().name, "device": device.name, "config": options.config,
             "precision": options.precision} | found
            for found in compare(config, options.precision, batch, options.steps)]
    for one in rows:
        print(f"{one['backend']} {one['config']} {one['way']:19s} {one['launches']:4d} launches {one['ms']:9.2f} ms, "
              f"{one['host ms']:7.3f} of the host   "
              f"{'same bits' if one['bits equal'] else 'OTHER BITS'}")
    if options.json:
        options.json.write_text(json.dumps({"rows": rows}, indent=1), encoding="utf-8")
    return 0 if all(one["bits equal"] for one in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
