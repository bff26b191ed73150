"""Training processes to be killed. `python -m tests.killed` imports everything once and forks a process for each job
that it reads: a process of its own, with a device of its own, that costs no time to start.

A job is [seconds, folder, text, backend, steps, moment]: it is killed with SIGKILL after so many seconds. Moments are
places where the process kills itself, as [name, count]: at the count-th time that it comes there. null is none.
"""

from __future__ import annotations

import builtins
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from dualml import checkpoints, optim
from dualml.backends import webgpu as webgpu  # imported here so that not every process need do it
from dualml.models import gpt
from dualml.train import Reporter, TrainConfig, config, metrics, plot, prepare, resume

gpt.PRESETS["tiny"] = dict(context=8, layers=1, heads=2, width=16, dropout=0.1, head_bias=True)
config.RECIPES["tiny"] = TrainConfig(preset="tiny", batch=2, accumulation=2, context=8, dropout=0.1, lr=1e-2, warmup=4,
                                     eval_every=2, eval_batches=1, sample_tokens=0, steps=1)
plot.available = lambda: False
_left = [0]


def _die() -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("still alive")


def _now() -> bool:
    _left[0] -= 1
    return _left[0] == 0


def _around(owner: Any, name: str, before: bool) -> None:
    """Kills before or after a call."""
    real = getattr(owner, name)

    def call(*args: Any, **named: Any) -> Any:
        now = _now()
        if now and before:
            _die()
        result = real(*args, **named)
        return _die() if now else result
    setattr(owner, name, call)


def _half_a_text(real: Any = Path.write_text) -> None:
    def write(path: Path, text: str, **named: Any) -> Any:
        if not _now():
            return real(path, text, **named)
        real(path, text[:len(text) // 2], **named)
        return _die()
    Path.write_text = write  # type: ignore[method-assign,assignment]


def _half_the_weights() -> None:
    real = checkpoints.save_tensors

    def save(path: Path, arrays: Any) -> None:
        real(path, arrays)
        if _now():
            os.truncate(path, path.stat().st_size // 2)
            _die()
    checkpoints.save_tensors = save


def _half_a_removal() -> None:
    real = shutil.rmtree

    def remove(path: Path, ignore_errors: bool = False) -> None:
        if Path(path).is_dir() and _now():
            min(Path(path).iterdir()).unlink()
            _die()
        real(path, ignore_errors=ignore_errors)
    shutil.rmtree = remove  # type: ignore[assignment]


def _half_a_line() -> None:
    real = metrics.Metrics.flush

    def flush(self: metrics.Metrics, sync: bool = False) -> None:
        if self._lines and _now():
            self._lines[-1] = self._lines[-1][:9]
            with builtins.open(self.path, "a", encoding="utf-8") as file:  # type: ignore[arg-type]
                file.write("\n".join(self._lines))
            _die()
        real(self, sync)
    metrics.Metrics.flush = flush  # type: ignore[method-assign]


MOMENTS: dict[str, Callable[[], None]] = {
    "before fsync": lambda: _around(os, "fsync", True), "after fsync": lambda: _around(os, "fsync", False),
    "before replace": lambda: _around(os, "replace", True), "after replace": lambda: _around(os, "replace", False),
    "half a text": _half_a_text, "half the weights": _half_the_weights, "half a removal": _half_a_removal,
    "half a line": _half_a_line, "before mkdir": lambda: _around(Path, "mkdir", True),
    "before the optimizer": lambda: _around(optim.AdamW, "hyper", True),  # a replayed step calls no more
    "after the optimizer": lambda: _around(optim.AdamW, "zero_grad", True),
    "while hashing": lambda: _around(checkpoints, "sha256", True),
    "while resuming": lambda: _around(checkpoints, "load_model", False),
    "before the commit": lambda: _around(checkpoints, "write_json", True),
}


def train(folder: str, text: str, backend: str, steps: int, moment: list[Any] | None) -> None:
    """The run in a folder, from where it stands to its end or the moment."""
    if moment is not None:
        _left[0] = moment[1]
        MOMENTS[moment[0]]()
    out = Path(folder)
    if checkpoints.steps(out / "checkpoints"):
        run = resume(out, reporter=Reporter())
    else:
        run = prepare(config.recipe("tiny", text=text, steps=steps), backend, out)
    run.execute()


def main() -> None:
    """Says how each process ended."""
    for line in sys.stdin:
        seconds, *job = json.loads(line)
        child = os.fork()
        if not child:
            try:
                train(*job)
            except BaseException as error:
                print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
                os._exit(1)
            os._exit(0)
        if seconds is not None:
            time.sleep(seconds)
            os.kill(child, signal.SIGKILL)  # its number is not free before waitpid
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    main()
