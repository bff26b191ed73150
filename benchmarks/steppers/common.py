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
from typing import Any

BEGAN = time.perf_counter()


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="A worker of train_step.py.")
    for name in ("layers", "heads", "width", "context", "vocab", "batch"):
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--head-bias", type=int, default=0)
    parser.add_argument("--backend", default="cpu", help="dualml's, with +capture, +capture1 (streams), +lt, +own")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="PyTorch's")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32", help="of products")
    parser.add_argument("--compile", choices=("none", "default", "reduce-overhead", "max-autotune"), default="none")
    parser.add_argument("--attention", choices=("auto", "best", "flash", "cudnn", "mem_efficient"), default="auto",
                        help="PyTorch's; best tries them")
    parser.add_argument("--dropout", type=float, default=0.0)
    parser.add_argument("--clip", type=float, default=0.0, help="largest gradient norm; 0 for none")
    parser.add_argument("--wait", choices=("each", "end"), default="each", help="for the device: each step, or once")
    return parser.parse_args()


def tell(**message: object) -> None:
    print(json.dumps(message), flush=True)


def serve(label: str, parameters: int, step: Callable[[], Any], read: Callable[[Any], float] = float,
          wait: str = "each") -> None:
    """Takes steps as told. `step` returns the loss, and `read` makes a number of it, for which it waits for the device:
    after each step, or where `wait` is "end" after the last one of those asked for."""
    start = time.perf_counter()
    loss = read(step())
    now = time.perf_counter()
    tell(ready=label, parameters=parameters, first_step=now - start, since_start=now - BEGAN, loss=loss)
    for line in sys.stdin:
        wall, processor = time.perf_counter(), time.process_time()
        last: Any = None
        for _ in range(int(line)):
            last = step()
            if wait == "each":
                loss = read(last)
        if wait == "end":
            loss = read(last)
        tell(seconds=time.perf_counter() - wall, processor=time.process_time() - processor, loss=loss)
