"""A picture of launches over time: a lane for each kind of kernel, a bar for each launch. See Profile.timeline."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .errors import DualmlError

HOW_TO_GET = "pip install 'dualml[plot]' (matplotlib)"
Bar = tuple[str, float, float]  # kernel, seconds from the first launch, seconds

# Lanes from top to bottom, their colours (Okabe and Ito's, told apart by all eyes), and the kernels that belong there.
_LANES = (
    ("matrix products", "#0072b2", r"matmul"),
    ("attention", "#d55e00", r"attention_|rope_|decode_|cache_"),
    ("norms", "#009e73", r"layer_norm|rms_norm"),
    ("loss, softmax", "#cc79a7", r"cross_entropy|softmax|log_softmax|logsumexp"),
    ("embedding", "#56b4e9", r"embedding_"),
    ("optimizer", "#e69f00", r"(clip_)?adamw|sgd|refresh_master|squared_norm|grad_|scale_by_norm|accumulate"),
    ("sums and other folds", "#8c6d46", r"sum_|.*_(rows|columns|merge)$"),
    ("copies", "#999999", r"strided_|index_select|triangle|copy|cast_|clone"),
    ("random", "#5f4b8b", r"dropout|uniform|normal|randint|bernoulli"),
    ("fused", "#1b1b1b", r"fused"),
    ("elementwise", "#b8a800", r""),
)


def lane_of(kernel: str) -> int:
    """The number of the lane that a kernel's launches are drawn in."""
    return next(i for i, (_, _, names) in enumerate(_LANES) if re.match(names, kernel))


def draw(path: Path, bars: Sequence[Bar], title: str) -> None:
    """Writes the picture as PNG, SVG or PDF, by the path's ending."""
    try:
        from matplotlib import rc_context
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise DualmlError(f"[timeline] a picture needs matplotlib, which is not here. {HOW_TO_GET}") from None
    lanes = sorted({lane_of(name) for name, _, _ in bars})
    figure = Figure(figsize=(9.6, 1.6 + 0.34 * len(lanes)), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for row, lane in enumerate(lanes):
        label, colour, _ = _LANES[lane]
        mine = [(begin * 1e3, seconds * 1e3) for name, begin, seconds in bars if lane_of(name) == lane]
        total = sum(width for _, width in mine)
        axes.broken_barh(mine, (row - 0.4, 0.8), facecolors=colour, edgecolors=colour, linewidth=0.3,
                         label=f"{label}: {len(mine)} in {total:.2f} ms")
    _dress(axes, [_LANES[lane][0] for lane in lanes], title)
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "dualml"}):  # text stays text, equal pictures equal bytes
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


def _dress(axes: Any, names: list[str], title: str) -> None:
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set(title=title, xlabel="ms since the first launch")
    axes.set_xlim(left=0)
    axes.grid(axis="x", alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    if names:
        axes.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.02))
