"""What a run measured: one JSON object a line in metrics.jsonl, the losses in memory for the display, and, if wished,
all of it in TensorBoard."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

from ..safe_files import flush, writing
from .evaluation import Evaluation
from .tensorboard import Board

_FIX = "Free some space, or see to the folder's permissions, and go on with --resume."


class Metrics:
    """Lines {"step", "loss", "lr", "grad_norm", "seconds"} and {"step", "val_loss", "perplexity", "bits_per_byte",
    "seconds"}, in order of steps. A step that a loss scaler skipped has null for what was not finite, and "skipped"."""

    def __init__(self, path: Path | None = None) -> None:
        self.path = path
        self.board: Board | None = None
        self.losses: list[tuple[int, float]] = []
        self.validations: list[tuple[int, float]] = []
        self.smooth: float | None = None
        self.rate = 0.0
        self._lines: list[str] = []

    def step(self, step: int, loss: float, rate: float, norm: float, seconds: float) -> None:
        line = {"step": step, "loss": _number(loss), "lr": rate, "grad_norm": _number(norm),
                "seconds": round(seconds, 3)}
        self._keep(line | ({"skipped": True} if None in line.values() else {}))

    def validation(self, step: int, found: Evaluation, seconds: float) -> None:
        self._keep({"step": step, "val_loss": found.loss, "perplexity": found.perplexity,
                    "bits_per_byte": found.bits_per_byte, "seconds": round(seconds, 3)})

    def _keep(self, line: dict[str, Any]) -> None:
        self._lines.append(json.dumps(line))
        self._remember(line)
        if self.board is not None:
            self.board.add(line["step"], {f"{'validation' if 'val_loss' in line else 'training'}/{name}": value
                                          for name, value in line.items() if name not in ("step", "skipped")})

    def _remember(self, line: dict[str, Any]) -> None:
        if "val_loss" in line:
            self.validations.append((line["step"], line["val_loss"]))
        elif line["loss"] is not None:
            self._keep_loss(line["step"], line["loss"])
        self.rate = line.get("lr", self.rate)

    def _keep_loss(self, step: int, loss: float) -> None:
        self.losses.append((step, loss))
        share = max(0.05, 1.0 / len(self.losses))  # a mean at first, a running mean of about 20 steps later
        self.smooth = loss if self.smooth is None else self.smooth + share * (loss - self.smooth)

    def flush(self, sync: bool = False) -> None:
        """Writes what was measured since the last flush; with `sync` it is on disk afterwards."""
        if self.path is not None and self._lines:
            with writing(self.path, _FIX):
                self.path.parent.mkdir(parents=True, exist_ok=True)
                with self.path.open("a", encoding="utf-8") as file:
                    file.write("\n".join(self._lines) + "\n")
        self._lines = []
        if sync and self.path is not None and self.path.exists():
            flush(self.path)
        if self.board is not None:
            self.board.flush()

    def rewind(self, step: int) -> None:
        """Takes over an earlier process's lines up to `step`; later ones will be measured again. -1 takes none."""
        self._lines = []
        if self.path is None or not self.path.exists():
            return
        kept = [line for line in read(self.path) if line["step"] <= step]
        for line in kept:
            self._remember(line)
        partial = self.path.with_suffix(".partial")
        with writing(self.path, _FIX):
            partial.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
            os.replace(partial, self.path)

    def curve(self, points: int = 40) -> list[float]:
        """The losses so far as so many means."""
        values = [loss for _, loss in self.losses]
        size = -(-len(values) // points) or 1
        return [sum(values[i:i + size]) / len(values[i:i + size]) for i in range(0, len(values), size)]


def _number(value: float) -> float | None:
    """JSON has no infinity and no NaN."""
    return value if math.isfinite(value) else None


def read(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics.jsonl; one cut short by a crash, or something else, is left out."""
    found = []
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            line = json.loads(text)
        except (ValueError, RecursionError):
            continue
        if isinstance(line, dict) and type(line.get("step")) is int and ("val_loss" in line or "loss" in line):
            found.append(line)
    return found
