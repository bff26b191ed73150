"""How many threads NumPy's matrix products use. OpenBLAS's threads spin while they wait for each other: where another
process holds a core, two threads take ten times as long as one. So the number is measured, now and again.

Products are the same to the last bit with any number of threads: they share out rows and columns, not the summed
dimension.
"""

from __future__ import annotations

import ctypes
import importlib
import os
import time
from collections.abc import Callable

import numpy as np

_SECONDS = 5.0  # between two measurements
_SOON = 0.5     # the same while a core is taken, since it may be free again any moment
_ROUNDS = 4     # products of about a millisecond for each number of threads
_SYMBOLS = ("scipy_openblas_set_num_threads64_", "scipy_openblas_set_num_threads", "openblas_set_num_threads64_",
            "openblas_set_num_threads")
_ASKED = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "GOTO_NUM_THREADS")  # the user's choice stands


def _setter() -> Callable[[int], None] | None:
    """OpenBLAS's own function in the library that NumPy loaded; None with another BLAS."""
    try:
        library = ctypes.CDLL(importlib.import_module("numpy._core._multiarray_umath").__file__)
    except (ImportError, OSError):
        return None
    for name in _SYMBOLS:
        found = getattr(library, name, None)
        if found is not None:
            return found  # type: ignore[no-any-return]
    return None


class Threads:
    """`refresh` before a product costs a look at the clock, and every few seconds a measurement."""

    def __init__(self) -> None:
        cores = os.cpu_count() or 1
        self.choices = sorted({1, max(1, cores // 2), cores})
        self.now = cores
        self._set = _setter() if cores > 1 and not any(os.environ.get(name) for name in _ASKED) else None
        self._due = 0.0

    def refresh(self) -> None:
        if self._set is not None and time.monotonic() >= self._due:
            self.now = self.measure(self._set)
            self._due = time.monotonic() + (_SECONDS if self.now == self.choices[-1] else _SOON)

    def measure(self, set_threads: Callable[[int], None]) -> int:
        """The number of threads whose products took least, stalls included; set when it returns."""
        a, b = np.ones((384, 256), np.float32), np.ones((256, 384), np.float32)
        taken = dict.fromkeys(self.choices, 0.0)
        for _ in range(_ROUNDS):
            for count in self.choices:
                set_threads(count)
                start = time.perf_counter()
                a @ b
                taken[count] += time.perf_counter() - start
        best = min(taken, key=taken.__getitem__)
        set_threads(best)
        return best
