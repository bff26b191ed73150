"""Capture: a step is recorded at the one door, and replayed without Python's autograd. See docs/capture.md."""

from .program import Program
from .step import Captured, capture

__all__ = ["Captured", "Program", "capture"]
