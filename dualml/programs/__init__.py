"""Capture: a step is recorded at the one door, and replayed without Python's autograd. See docs/capture.md."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from .program import Program
from .step import Captured, capture

if TYPE_CHECKING:
    from .loading import LoadedProgram

__all__ = ["Captured", "Program", "capture", "load_program"]


def load_program(path: str | os.PathLike[str], backend: str | None = None, most: int = 16 << 30) -> LoadedProgram:
    """A program that Program.save wrote, to be called without the Python code that it came from.

    Args:
        path: its folder.
        backend: where it runs, the current one by default; it need not be the one that it was saved on.
        most: bytes that it may ask for beside the tensors that are in the file.

    Raises:
        CheckpointError: the files are damaged, do not fit each other, or ask for what cannot be.
    """
    from .loading import read_program  # brings the libraries that files need
    return read_program(Path(path), backend, most)
