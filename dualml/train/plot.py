"""The loss curve as a picture, by matplotlib, which the extra `plot` installs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

HOW_TO_GET = "pip install 'dualml[plot]' (matplotlib)"


def available() -> bool:
    from importlib.util import find_spec
    return find_spec("matplotlib") is not None


def loss_curve(path: Path, losses: Sequence[tuple[int, float]], validations: Sequence[tuple[int, float]],
               title: str) -> None:
    """Writes a PNG with the loss of each step, its running mean, and the validation losses."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    figure = Figure(figsize=(7.2, 4.2), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    if losses:
        steps, values = zip(*losses, strict=True)
        axes.plot(steps, values, color="#9db8d9", linewidth=0.6, label="training, each step")
        axes.plot(steps, running_mean(values), color="#1f4e8c", linewidth=1.6, label="training, running mean")
    if validations:
        places, heights = zip(*validations, strict=True)
        axes.plot(places, heights, "o-", color="#d9541e", linewidth=1.4, markersize=4, label="validation")
        axes.annotate(f"{heights[-1]:.3f}", (places[-1], heights[-1]), textcoords="offset points", xytext=(0, 8),
                      ha="right", color="#d9541e")
    axes.set(title=title, xlabel="step", ylabel="cross entropy per token (nats)")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    if losses or validations:
        axes.legend(frameon=False)
    figure.savefig(path)


def running_mean(values: Sequence[float], share: float = 0.05) -> list[float]:
    found: list[float] = []
    for value in values:
        found.append(value if not found else found[-1] + max(share, 1 / (len(found) + 1)) * (value - found[-1]))
    return found
