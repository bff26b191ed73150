"""What is to be reached on an H200, and the verdict on what was measured.

Attention: FlashAttention-2 on an H100 (what mma.sync can reach), then cuDNN on the same (with wgmma); 16,384 tokens in
all, 2,048 columns. Norms, loss, optimizer: shares of what the device itself copies. The step: 16,384 tokens of the
12.3M GPT.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Target:
    """A figure to be reached, and the one after it."""

    what: str
    unit: str  # TFLOP/s, TB/s, "of copy" (a share of a copy's speed), x (times as fast), ms (the less the better)
    goal: float
    later: float | None = None

    def verdict(self, ours: float | None, torch: float | None = None, rival: str = "",
                wrong: str = "") -> dict[str, Any]:
        """A row of the table of targets. `torch` is the figure of the `rival` in the same run; what is `wrong` with the
        result of ours stands in the place of whether its speed is enough."""
        reached = "not measured"
        if wrong:
            reached = wrong
        elif ours is not None:
            met = [ours <= goal if self.unit == "ms" else ours >= goal
                   for goal in (self.goal, self.later) if goal is not None]
            reached = "yes, both" if len(met) == 2 and all(met) else "yes" if met[0] else "no"
        return {"target": self.what, "unit": self.unit, "goal": self.goal, "later": self.later, "ours": ours,
                "torch": torch, "rival": rival, "reached": reached}


ATTENTION = {  # way, head, causal, tokens of a sequence
    ("forward", 64, True, 1024): Target("attention forward, head 64, causal, 1k", "TFLOP/s", 229, 288),
    ("forward", 64, True, 16384): Target("attention forward, head 64, causal, 16k", "TFLOP/s", 299, 388),
    ("backward", 64, False, 16384): Target("attention backward, head 64, 16k", "TFLOP/s", 291, 433),
}
NORM_BACKWARD = Target("norm backward", "TB/s", 2.5)
CROSS_ENTROPY = Target("cross entropy and its gradient", "of copy", 0.8)
ADAMW = Target("AdamW", "of copy", 0.8)

STEP_EAGER = Target("12.3M step, eager PyTorch's time over ours", "x", 2.0)
STEP_COMPILED = Target("12.3M step, torch.compile's best time over ours", "x", 1.0)
STEP_TIME = Target("12.3M step, 16,384 tokens, bfloat16", "ms", 3.3)


def number(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def table(rows: list[dict[str, Any]]) -> list[str]:
    """Verdicts as a Markdown table."""
    if not rows:
        return []
    lines = ["| target | goal, later | ours | PyTorch | reached |", "| --- | ---: | ---: | --- | --- |"]
    for row in rows:
        goal = number(row["goal"]) + (f", {number(row['later'])}" if row["later"] is not None else "")
        torch = "-" if row["torch"] is None else f"{number(row['torch'])} ({row['rival']})"
        lines.append(f"| {row['target']} | {goal} {row['unit']} | {number(row['ours'])} | {torch} | {row['reached']} |")
    return lines
