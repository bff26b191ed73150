"""Curves for TensorBoard. The only file that imports tensorboardX, which the extra `tensorboard` installs."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path

from ..errors import TrainingError

HOW_TO_GET = "pip install 'dualml[tensorboard]' (tensorboardX)"


class Board:
    """An event file in `folder`. Of earlier ones TensorBoard shows what lies before `step`."""

    def __init__(self, folder: Path, step: int = 0) -> None:
        try:
            writer = import_module("tensorboardX").SummaryWriter
        except ImportError as error:
            raise TrainingError(f"[train] --tensorboard needs tensorboardX, which is not installed ({error}). Get it "
                                f"with {HOW_TO_GET}.") from None
        self._writer = writer(str(folder), purge_step=step + 1 if step else None)

    def add(self, step: int, values: Mapping[str, float | None]) -> None:
        for name, value in values.items():
            if value is not None:
                self._writer.add_scalar(name, value, step)

    def flush(self) -> None:
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()
