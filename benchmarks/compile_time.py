"""How long the first run of a training step on a GPU waits for the compiler: all CUDA units of the 12.3M GPT's step,
eager and captured, by NVRTC for sm_90a. Needs no GPU. Later runs find them on disk, which is measured too.

    python benchmarks/compile_time.py                       bfloat16, one after the other
    python benchmarks/compile_time.py --threads 4           as the last figure: several at once
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from step_kernels import captured  # noqa: E402

from dualml import amp, runtime  # noqa: E402
from dualml.backends.nvrtc import Compiler, inline_headers  # noqa: E402
from dualml.backends.sources import cuda_source  # noqa: E402
from dualml.kernel import DeviceInfo, Spec  # noqa: E402
from tests.real_nvrtc import RealNvrtc, nvrtc  # noqa: E402
from tests.test_nvrtc import Recorder  # noqa: E402

Unit = tuple[Spec, str]


class Building(Recorder):
    """An H200 that keeps what it would compile, in the order in which a step asks for it. cuBLAS makes products."""

    own_products = False

    def __init__(self) -> None:
        super().__init__(90)
        self.name = "building"
        self.device = DeviceInfo("cuda", "H200", subgroup_size=32, arch=90, limits={"multiprocessors": 132})
        self.units: list[Unit] = []

    def build(self, spec: Spec) -> Spec:
        if spec.kernel.name != "matmul":
            self.units.append((spec, inline_headers(cuda_source(spec, self.device))))
        return spec


def units_of(precision: str, dropout: float) -> list[Unit]:
    """Each kernel in the order in which the first steps ask for it, eager ones and those of the captured step."""
    runtime.register_backend("building", __name__, "Building")
    with runtime.use_backend("building"):
        captured(precision, 2, dropout)
    device: Any = runtime.get("building")
    made: list[Unit] = device.units
    return made


def timed(work: Callable[[], Any]) -> tuple[float, float]:
    """Seconds by the clock, and of this process's CPU time."""
    begin, busy = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - begin, time.process_time() - busy


def measure(units: list[Unit], threads: int) -> None:
    library = RealNvrtc()
    compiler = Compiler(library, library.headers, 90)
    compiler.compile(*units[0], anew=True)  # the library's own start

    def anew(unit: Unit) -> bytes:
        return compiler.compile(*unit, anew=True)

    each = [(timed(lambda unit=unit: anew(unit)), unit[0].stem) for unit in units]
    wall, busy = (sum(times[i] for times, _ in each) for i in (0, 1))
    slowest = ", ".join(f"{name} {times[1]:.2f}" for times, name in sorted(each, reverse=True)[:4])
    print(f"one after the other: {wall:.1f} s, {busy:.1f} s of CPU time; most CPU time: {slowest}")
    again = timed(lambda: [compiler.compile(*unit) for unit in units])
    print(f"from the disk: {again[0] * 1e3:.0f} ms")
    if threads > 1:
        with ThreadPoolExecutor(threads) as pool:
            wall, busy = timed(lambda: list(pool.map(anew, units)))
        print(f"{threads} threads: {wall:.1f} s, {busy:.1f} s of CPU time")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--precision", choices=amp.PRECISIONS, default="bfloat16")
    parser.add_argument("--dropout", type=float, default=0.1)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    if nvrtc() is None:
        raise SystemExit("NVRTC's wheels are not installed: pip install -e '.[nvrtc]'")
    units = units_of(options.precision, options.dropout)
    version = ".".join(map(str, RealNvrtc().getVersion()))
    print(f"{len(units)} units of the 12.3M step, {options.precision}, dropout {options.dropout:g}; NVRTC {version}, "
          f"sm_90a, {os.cpu_count()} cores")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["DUALML_CACHE"] = folder
        measure(units, options.threads)


if __name__ == "__main__":
    main()
