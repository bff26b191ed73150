"""GFLOP/s of matrix products and GB/s of an addition, beside NumPy, alternating in one run.

    python benchmarks/matmul.py --backend webgpu --json out/matmul.json

The sizes are those of a 12.3M-parameter GPT's training step (1,024 tokens): every linear layer forward, the gradient of
its input and that of its weight; and two cubes. Each pair of samples is taken one after the other; a row tells the best
of either, and the median of the pairs' ratios, which a busy machine disturbs least. On a CPU driver, "by CPU time"
is what the process would reach if nobody else used the cores.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

import dualml as dm
from dualml import runtime
from dualml.array import from_numpy
from dualml.backends.base import Backend
from dualml.ops.matmul import gemm

LAYERS = {"qkv": (1152, 384), "proj": (384, 384), "fc": (1536, 384), "fc proj": (384, 1536), "lm_head": (4096, 384)}
TOKENS = 1024
CUBES = (512, 1024)
ADD = 1 << 22  # elements
Sample = tuple[float, float]  # seconds of wall and of CPU time over all cores


def products() -> list[tuple[str, int, int, int, bool, bool]]:
    """(label, M, N, K, ta, tb) of every product."""
    rows = []
    for name, (columns, inner) in LAYERS.items():
        rows += [(f"{name} forward", TOKENS, columns, inner, False, True),
                 (f"{name} dx", TOKENS, inner, columns, False, False),
                 (f"{name} dweight", columns, inner, TOKENS, True, False)]
    return rows + [(f"cube {n}", n, n, n, False, False) for n in CUBES]


def sample(work: Callable[[], Any], wait: Callable[[], None], seconds: float) -> Sample:
    """Time of one `work`, from as many as last about `seconds`."""
    count, cores = 1, os.cpu_count() or 1
    while True:
        wall, used = time.perf_counter(), time.process_time()
        for _ in range(count):
            work()
        wait()
        wall, used = time.perf_counter() - wall, time.process_time() - used
        if wall >= seconds / 2:
            return wall / count, used / count / cores
        count = max(count + 1, int(count * seconds / max(wall, 1e-6)))


def compare(label: str, amount: float, ours: Callable[[], Any], numpy: Callable[[], Any], backend: Backend,
            rounds: int, seconds: float) -> dict[str, Any]:
    """A row: amount per second of both, alternating. `amount` is in units of 1e9."""
    start = time.perf_counter()
    ours()
    backend.synchronize()
    first = time.perf_counter() - start
    numpy()
    mine, theirs = [], []
    for _ in range(rounds):
        mine.append(sample(ours, backend.synchronize, seconds))
        theirs.append(sample(numpy, lambda: None, seconds))
        time.sleep(0.1)  # OpenBLAS's threads go on spinning for a while, on the cores that a CPU driver needs
    return {"label": label, "first_s": round(first, 3), "best": amount / min(w for w, _ in mine),
            "median": amount / statistics.median(w for w, _ in mine),
            "by_cpu_time": amount / min(c for _, c in mine) if backend.device.software else None,
            "numpy_best": amount / min(w for w, _ in theirs),
            "ratio": statistics.median(t[0] / m[0] for m, t in zip(mine, theirs, strict=True))}


def multiply_rows(backend: Backend, rounds: int, seconds: float) -> list[dict[str, Any]]:
    rng, rows = np.random.default_rng(0), []
    for label, m, n, k, ta, tb in products():
        a = rng.standard_normal((1, k, m) if ta else (1, m, k), np.float32)
        b = rng.standard_normal((1, n, k) if tb else (1, k, n), np.float32)
        left, right = from_numpy(a, backend=backend), from_numpy(b, backend=backend)
        x, y = (a[0].T if ta else a[0]), (b[0].T if tb else b[0])
        row = compare(f"{label} {m}x{n}x{k}", 2 * m * n * k / 1e9, lambda: gemm(left, right, ta=ta, tb=tb),  # noqa: B023
                      lambda: x @ y, backend, rounds, seconds)  # noqa: B023
        error = np.abs(gemm(left, right, ta=ta, tb=tb).numpy()[0] - x.astype(np.float64) @ y).max()
        rows.append(row | {"unit": "GFLOP/s", "error": float(error)})
    return rows


def add_row(backend: Backend, rounds: int, seconds: float) -> dict[str, Any]:
    x = np.random.default_rng(0).standard_normal(ADD, np.float32)
    with dm.use_backend(backend.name), dm.no_grad():
        tensor = dm.tensor(x)
        row = compare(f"x + x, {ADD * 4 >> 20} MiB", 12 * ADD / 1e9, lambda: tensor + tensor, lambda: x + x, backend,
                      rounds, seconds)
    return row | {"unit": "GB/s"}


def main() -> None:
    parser = argparse.ArgumentParser(description="Matrix products and an addition beside NumPy.")
    parser.add_argument("--backend", default="auto", help="auto, webgpu, cuda or cpu")
    parser.add_argument("--rounds", type=int, default=5, help="pairs of samples for each row")
    parser.add_argument("--seconds", type=float, default=0.1, help="length of a sample")
    parser.add_argument("--json", type=Path, help="file for the numbers")
    options = parser.parse_args()
    backend = runtime.get(options.backend)
    rows = [*multiply_rows(backend, options.rounds, options.seconds),
            add_row(backend, options.rounds, options.seconds)]
    table = Table(title=f"{backend.name} on {backend.device.name}", caption="first: the first call, with compilation")
    for column in ("", "best", "median", "by CPU time", "NumPy best", "ours / NumPy", "first, s", "unit"):
        table.add_column(column, justify="left" if column in ("", "unit") else "right", no_wrap=not column)
    for r in rows:
        table.add_row(r["label"], f"{r['best']:.1f}", f"{r['median']:.1f}",
                      f"{r['by_cpu_time']:.1f}" if r["by_cpu_time"] else "", f"{r['numpy_best']:.1f}",
                      f"{r['ratio']:.2f}", f"{r['first_s']:.2f}", r["unit"])
    Console(width=max(100, Console().width)).print(table)
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        device = {"backend": backend.name, "device": backend.device.name, "driver": backend.device.driver}
        options.json.write_text(json.dumps(device | {"rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
