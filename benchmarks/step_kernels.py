"""Device time of every launch of the 12.3M GPT's captured training step, summed by kernel and, for products, by shape.

    python benchmarks/step_kernels.py --json out/step_kernels.json             bfloat16, 64 x 256 tokens, on cuda
    python benchmarks/kernel_table.py --only step --measured out/step_kernels.json  beside what was counted

The step runs launch by launch, each between two events, after copies that keep the device busy until all launches are
in its queue. So no time of the host is in it, but that of the events is, about 2 us a launch; the graph's replay, which
is timed too, is what a step takes.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from device_clock import COVER, MOST_COVERS, Contestant, OurClock, by_launch, compare  # noqa: E402
from figures import write_figures  # noqa: E402

import dualml as dm  # noqa: E402
from dualml import amp, optim, runtime  # noqa: E402
from dualml.kernel import Spec  # noqa: E402
from dualml.models import GPT  # noqa: E402
from dualml.train import recipe  # noqa: E402
from dualml.train.trainer import make_optimizer  # noqa: E402

PRESET, VOCABULARY, CONTEXT = "gpt-12m", 4096, 256


def captured(precision: str, batch: int, dropout: float, **sizes: Any) -> Any:
    """The captured training step: forward, backward, clipping, AdamW; called twice, so that its program is there.
    `sizes` are the model's, in place of the preset's."""
    config, backend = recipe(PRESET), runtime.get_backend()
    model = GPT.from_preset(PRESET, VOCABULARY, dropout=dropout, **sizes)
    optimizer, scaler = make_optimizer(model, config), amp.LossScaler(precision, backend)
    rng, shape = np.random.default_rng(0), (batch, model.config.context)
    tokens, targets = (dm.tensor(rng.integers(0, VOCABULARY, shape).astype(np.int32)) for _ in range(2))

    def step() -> Any:
        with amp.autocast(precision):
            loss = model(tokens, targets)[1]
        loss.backward(scaler.seed(1))
        factor, norm = scaler.factor(optim.grad_squares(model.parameters()), config.clip)
        optimizer.step(factor)
        optimizer.zero_grad()
        return loss.detach(), norm

    run = dm.capture(step)
    for _ in range(2):
        run()
    return run


def label(spec: Spec, dims: Any) -> str:
    """A row's name: source, dtypes, and of a product its shape."""
    dtypes = [spec.dtype(arg) for arg in spec.kernel.args]
    floats = [dtype.short for dtype in dtypes if dtype.is_floating_point] or [dtypes[0].short]
    name = f"`{spec.stem}` {' to '.join(dict.fromkeys((floats[0], floats[-1])))}"
    if spec.kernel.source != "matmul":
        return name
    name = name.replace("`matmul", f"`{spec.kernel.name}")
    return name + f" {dims['M']}x{dims['K']}x{dims['N']}" + "".join(f" {n}" for n in ("ta", "tb") if dims[n]) \
        + (" bias" if dims.get("has_bias") else "")


def timed(run: Any, clock: OurClock, covers: int) -> tuple[list[str], list[float]]:
    """Names of a step's launches, and device seconds of each; without a device's clock there are none."""
    clock.wait()
    for _ in range(covers):
        clock.cover()
    return by_launch(clock.backend, run, label)


def rows_of(names: list[str], rounds: list[list[float]]) -> list[dict[str, Any]]:
    """Microseconds by name: sums over a step of each launch's median."""
    if any(len(seconds) != len(names) for seconds in rounds):
        raise RuntimeError(f"{len(names)} launches were seen, {[len(s) for s in rounds]} were timed")
    found: dict[str, dict[str, Any]] = {}
    for index, name in enumerate(names):
        row = found.setdefault(name, {"kernel": name, "launches": 0, "us": 0.0})
        row["launches"] += 1
        row["us"] += statistics.median(r[index] for r in rounds) * 1e6 if rounds else 0.0
    return sorted(found.values(), key=lambda row: -row["us"])


def measure(options: argparse.Namespace, **sizes: Any) -> dict[str, Any]:
    dm.set_backend(options.backend)
    dm.manual_seed(0)
    backend = runtime.current()
    clock = OurClock(backend, 1 << 16 if sizes else COVER)
    run = captured(options.precision, options.batch, options.dropout, **sizes)
    found = [timed(run, clock, MOST_COVERS) for _ in range(options.rounds)]
    names, rounds = found[0][0], [seconds for _, seconds in found if seconds]
    step = compare([Contestant("step", clock, run)], options.rounds, 0.05)["step"]
    return {"precision": options.precision, "batch": options.batch, "dropout": options.dropout,
            "step ms": step.seconds * 1e3, "step host ms": step.host * 1e3, "rows": rows_of(names, rounds)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backend", default="cuda")
    parser.add_argument("--precision", choices=amp.PRECISIONS, default="bfloat16")
    parser.add_argument("--batch", type=int, default=64, help="sequences of 256 tokens")
    parser.add_argument("--dropout", type=float, default=0.1)
    parser.add_argument("--rounds", type=int, default=7, help="steps, of which each launch's median counts")
    parser.add_argument("--tiny", action="store_true", help="a very small model, to try the script")
    parser.add_argument("--json", type=Path, help="file for the numbers")
    options = parser.parse_args()
    found = measure(options, **(dict(layers=1, heads=2, width=16, context=8) if options.tiny else {}))
    for row in found["rows"]:
        print(f"{row['kernel']:60s} {row['launches']:4d} {row['us']:10.1f} us")
    total = sum(row["us"] for row in found["rows"])
    print(f"launch by launch {total / 1e3:.3f} ms; replayed {found['step ms']:.3f} ms, of which the host takes "
          f"{found['step host ms']:.3f}")
    write_figures(options.json, runtime.current(), found)


if __name__ == "__main__":
    main()
