"""What the workers of train_step.py share: their arguments and how they talk to it. Standard library only, since each
worker runs in its own Python.

A worker builds its model, takes a first step and prints {"ready": ...}. For every number N it then reads, it takes N
steps and prints {"seconds": ..., "processor": ..., "loss": ...}.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable

BEGAN = time.perf_counter()


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    for name in ("layers", "heads", "width", "context", "vocab", "batch"):
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--head-bias", type=int, default=0)
    parser.add_argument("--backend", default="cpu")
    return parser.parse_args()


def tell(**message: object) -> None:
    print(json.dumps(message), flush=True)


def serve(label: str, parameters: int, step: Callable[[], float]) -> None:
    """Takes steps as told. `step` returns the loss, and so has waited for the device."""
    start = time.perf_counter()
    loss = step()
    now = time.perf_counter()
    tell(ready=label, parameters=parameters, first_step=now - start, since_start=now - BEGAN, loss=loss)
    for line in sys.stdin:
        wall, processor = time.perf_counter(), time.process_time()
        for _ in range(int(line)):
            loss = step()
        tell(seconds=time.perf_counter() - wall, processor=time.process_time() - processor, loss=loss)
