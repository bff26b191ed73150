"""Losses of one small GPT in each precision, from one seed on the same batches, how far they are from float32's, and
the memory that a captured step needs besides weights, gradients and optimizer state.

    python benchmarks/precision.py                                   200 steps, into docs/runs/precision.json and .png
    python benchmarks/precision.py --backend webgpu --steps 60 --out build/precision
    python benchmarks/precision.py --backend cuda

The text is Python's documentation, by characters. A step's batch follows from the seed and its number, so two curves
differ by rounding alone, and by the steps that float16's loss scale skips. A precision that the device has not is left
out, by name. The picture needs matplotlib.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from dualml import amp, runtime
from dualml.data import open_corpus
from dualml.errors import DTypeError
from dualml.safe_files import replacing
from dualml.train import TrainConfig, recipe
from dualml.train.run import build

CURVES = (*amp.PRECISIONS, *amp.SHORT_WEIGHTS)
COLOURS = dict(zip(CURVES, ("#444444", "#d9541e", "#1f4e8c", "#e6a23c", "#3a9a5b"), strict=True))
EVALUATED = 20  # batches of the validation at the end


def settings(steps: int, lr: float, seed: int) -> TrainConfig:
    """gpt-nano's recipe with half of its model and, by default, nanoGPT's learning rate."""
    return recipe("gpt-nano", steps=steps, layers=3, width=96, heads=3, batch=8, warmup=min(30, steps // 4), lr=lr,
                  min_lr=lr / 10, eval_batches=EVALUATED, seed=seed)


def train(config: TrainConfig, backend: str, steps: int) -> dict[str, Any]:
    """Loss of each step, validation loss after the last, and what the loss scale did."""
    corpus = open_corpus(config.text, config.data)
    trainer = build(config, backend, corpus.make_tokenizer(config.tokenizer), corpus, None)
    start = time.perf_counter()
    for _ in range(steps):
        trainer.train_step()
    trainer.read_losses()
    seconds = time.perf_counter() - start
    scale = trainer.scaler.state_dict()
    return {"parameters": trainer.model.num_parameters(), "weights": trainer.model.wte.weight.dtype.name,
            "losses": [round(loss, 5) for _, loss in trainer.metrics.losses],
            "val_loss": round(trainer.evaluate().loss, 5), "loss_scale": scale["scale"],
            "skipped_steps": int(scale["skipped"]), "seconds": round(seconds, 1),
            "temporaries_mb": round(
                max((p.classes()["temporary"] for p in trainer._replayed.programs), default=0) / 1e6, 1)}


def compare(curves: dict[str, dict[str, Any]]) -> None:
    """Adds to each curve how far it is from float32's."""
    full = np.array(curves["float32"]["losses"])
    for found in curves.values():
        apart = np.abs(np.array(found["losses"]) - full)
        half = len(apart) // 2
        found["difference"] = {"max": round(float(apart.max()), 5), "mean": round(float(apart.mean()), 5),
                               "mean_of_second_half": round(float(apart[half:].mean()), 5)}


def table(curves: dict[str, dict[str, Any]]) -> list[str]:
    lines = ["precision          last 20 steps   validation   largest difference   mean   of the second half   skipped"
             "   temporaries"]
    for name, found in curves.items():
        last, apart = float(np.mean(found["losses"][-20:])), found["difference"]
        lines.append(f"{name:18} {last:13.4f} {found['val_loss']:12.4f} {apart['max']:20.4f} {apart['mean']:6.4f} "
                     f"{apart['mean_of_second_half']:20.4f} {found['skipped_steps']:9} {found['temporaries_mb']:10} MB")
    return lines


def picture(path: Path, curves: dict[str, dict[str, Any]], title: str) -> None:
    """Losses above, differences to float32 below."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    figure = Figure(figsize=(8.0, 6.0), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    full = np.array(curves["float32"]["losses"])
    steps = np.arange(1, len(full) + 1)
    for name, found in curves.items():
        losses = np.array(found["losses"])
        width = 2.2 if name == "float32" else 1.0
        above.plot(steps, losses, color=COLOURS[name], linewidth=width, label=name)
        if name != "float32":
            below.plot(steps, losses - full, color=COLOURS[name], linewidth=1.0)
    below.axhline(0, color=COLOURS["float32"], linewidth=1.0)
    above.set(title=title, ylabel="loss of the step (nats)")
    below.set(xlabel="step", ylabel="less float32's")
    for axes in (above, below):
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    above.legend(frameon=False)
    figure.savefig(path)


def one_line_a_value(told: dict[str, Any]) -> str:
    """JSON whose lines can be compared: those of a curve are its figures and its losses."""
    curves = ",\n".join(f"  {json.dumps(name)}: {json.dumps(found)}" for name, found in told["curves"].items())
    lines = [f" {json.dumps(name)}: {json.dumps(value)}" for name, value in told.items() if name != "curves"]
    return "{\n" + ",\n".join([*lines, f' "curves": {{\n{curves}\n }}']) + "\n}\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backend", default="cpu")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=1337)
    parser.add_argument("--precisions", nargs="+", choices=CURVES[1:], default=CURVES[1:])
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parents[1] / "docs/runs/precision",
                        help="where to write, without .json and .png")
    options = parser.parse_args()
    config, curves = settings(options.steps, options.lr, options.seed), {}
    device = runtime.get(options.backend).device
    for name in ("float32", *options.precisions):
        try:
            curves[name] = train(config.changed(precision=name), options.backend, options.steps)
        except DTypeError as error:
            print(f"{name} is left out: {error}")
            continue
        print(f"{name}: {curves[name]['seconds']} s", flush=True)
    compare(curves)
    print("\n".join(table(curves)))
    model = f"{config.layers} layers, width {config.width}, context {config.context}, batch {config.batch}"
    told = {"what": f"{options.steps} steps of a GPT in each precision: {model}, characters",
            "command": f"python benchmarks/precision.py --backend {options.backend} --steps {options.steps} "
                       f"--lr {options.lr:g} --seed {options.seed}",
            "backend": options.backend, "device": f"{device.name} ({device.driver})",
            "python": platform.python_version(), "config": config.to_dict(), "curves": curves}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    with replacing(options.out.with_suffix(".json"), "Name another --out.") as partial:
        partial.write_text(one_line_a_value(told), encoding="utf-8")
    parameters = curves["float32"]["parameters"]
    picture(options.out.with_suffix(".png"), curves, f"{parameters:,} parameters, rate {options.lr:g}, backend "
            f"{options.backend}")


if __name__ == "__main__":
    main()
