"""What a run measured: one JSON object a line in metrics.jsonl, and the last losses in memory for the display."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


class Metrics:
    """Lines {"step", "loss", "lr", "grad_norm", "seconds"} and {"step", "val_loss", "seconds"}, in order of steps."""

    def __init__(self, path: Path | None = None) -> None:
        self.path = path
        self.losses: list[tuple[int, float]] = []
        self.validations: list[tuple[int, float]] = []
        self.smooth: float | None = None
        self.rate = 0.0
        self._lines: list[str] = []

    def step(self, step: int, loss: float, rate: float, norm: float, seconds: float) -> None:
        self._keep_loss(step, loss)
        self.rate = rate
        self._add({"step": step, "loss": loss, "lr": rate, "grad_norm": norm, "seconds": round(seconds, 3)})

    def validation(self, step: int, loss: float, seconds: float) -> None:
        self.validations.append((step, loss))
        self._add({"step": step, "val_loss": loss, "seconds": round(seconds, 3)})

    def _keep_loss(self, step: int, loss: float) -> None:
        self.losses.append((step, loss))
        share = max(0.05, 1.0 / len(self.losses))  # a mean at first, a running mean of about 20 steps later
        self.smooth = loss if self.smooth is None else self.smooth + share * (loss - self.smooth)

    def _add(self, line: dict[str, Any]) -> None:
        self._lines.append(json.dumps(line))

    def flush(self) -> None:
        """Writes what was measured since the last flush."""
        if self.path is not None and self._lines:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as file:
                file.write("\n".join(self._lines) + "\n")
        self._lines = []

    def rewind(self, step: int) -> None:
        """Takes over an earlier process's lines up to `step`; later ones will be measured again."""
        self._lines = []
        if self.path is None or not self.path.exists():
            return
        kept = [line for line in read(self.path) if line["step"] <= step]
        for line in kept:
            if "val_loss" in line:
                self.validations.append((line["step"], line["val_loss"]))
            else:
                self._keep_loss(line["step"], line["loss"])
                self.rate = line["lr"]
        partial = self.path.with_suffix(".partial")
        partial.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
        os.replace(partial, self.path)

    def curve(self, points: int = 40) -> list[float]:
        """The losses so far as so many means."""
        values = [loss for _, loss in self.losses]
        size = -(-len(values) // points) or 1
        return [sum(values[i:i + size]) / len(values[i:i + size]) for i in range(0, len(values), size)]


def read(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics.jsonl; one cut short by a crash is left out."""
    found = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return found
