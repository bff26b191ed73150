"""Device time of the launches of kernel_workloads.py: the kernels that the 12.3M GPT's training step has no use for.

    python benchmarks/other_kernels.py --json out/other_kernels.json                     on cuda
    python benchmarks/kernel_table.py --only others --others out/other_kernels.json      beside what was counted

Each launch runs between two events, in work as a program does it, which may read results in between. So a short launch
has in it what the events take, about 2 us. The file is written after each round; work that fails is told at the end,
and makes the exit status 1.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from device_clock import by_launch  # noqa: E402
from figures import write_figures  # noqa: E402
from kernel_workloads import WORK, launch_name  # noqa: E402

import dualml as dm  # noqa: E402
from dualml import runtime  # noqa: E402


class Bench:
    """Microseconds of launches by their names, of all rounds so far, and what went wrong."""

    def __init__(self, backend: str) -> None:
        dm.set_backend(backend)
        self.backend = runtime.current()
        if not self.backend.begin_timing():
            raise SystemExit(f"{backend} has no clock for single launches.")
        self.backend.end_timing()
        self.took: dict[str, list[float]] = {}
        self.failed: dict[str, str] = {}

    def run(self, work: Callable[[], None], counts: bool) -> None:
        """Times a work's launches; one that fails is no reason to lose the others."""
        try:
            names, seconds = by_launch(self.backend, work, launch_name)
            if len(seconds) != len(names):
                raise RuntimeError(f"{len(names)} launches were seen, {len(seconds)} were timed.")
        except Exception as error:
            self.failed[work.__name__] = f"{type(error).__name__}: {error}"
            return
        for name, one in zip(names, seconds, strict=True) if counts else ():
            self.took.setdefault(name, []).append(one * 1e6)

    def medians(self) -> dict[str, float]:
        return {name: statistics.median(all_) for name, all_ in self.took.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backend", default="cuda")
    parser.add_argument("--rounds", type=int, default=5, help="of all work, after one that compiles")
    parser.add_argument("--json", type=Path, help="file for the numbers")
    options = parser.parse_args()
    bench = Bench(options.backend)
    for index in range(options.rounds + 1):
        for work in WORK:
            bench.run(work, counts=index > 0)  # the first compiles
        write_figures(options.json, bench.backend, {"us": bench.medians()})
    for name, us in sorted(bench.medians().items()):
        print(f"{us:10.1f} us  {name}")
    if bench.failed:
        raise SystemExit("\n".join(f"{name}: {what}" for name, what in bench.failed.items()))


if __name__ == "__main__":
    main()
