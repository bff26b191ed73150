"""Ctrl-C as a request: the first one lets the loop finish its step and save, the second one ends the process."""

from __future__ import annotations

import signal
import threading
from contextlib import suppress
from types import FrameType, TracebackType
from typing import Any

from .report import Reporter


class StopRequest:
    """Takes SIGINT and SIGTERM for the length of a with block. Elsewhere than in the main thread it takes nothing."""

    def __init__(self, reporter: Reporter) -> None:
        self.requested = False
        self.reporter = reporter
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._ask)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
        signal.signal(number, signal.SIG_DFL)
        with suppress(RuntimeError):  # the signal may have come in the middle of a print
            self.reporter.stopping()
