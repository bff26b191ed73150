"""Device time of the launches of kernel_workloads.py: the kernels that the 12.3M GPT's training step has no use for.

    python benchmarks/other_kernels.py --json out/other_kernels.json                     on cuda
    python benchmarks/kernel_table.py --only others --others out/other_kernels.json      beside what was counted

Each launch runs between two events, in work as a program does it, which may read results in between. So a short launch
has in it what the events take, about 2 us.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from device_clock import by_launch  # noqa: E402
from figures import write_figures  # noqa: E402
from kernel_workloads import WORK, launch_name  # noqa: E402

import dualml as dm  # noqa: E402
from dualml import runtime  # noqa: E402


def measure(backend: str, rounds: int, works: Sequence[Callable[[], None]] = WORK) -> dict[str, float]:
    """Microseconds by a launch's name: the median of all launches of that name, of all rounds but the first."""
    dm.set_backend(backend)
    device, took = runtime.current(), dict[str, list[float]]()
    if not device.begin_timing():
        raise SystemExit(f"{backend} has no clock for single launches.")
    device.end_timing()
    for index in range(rounds + 1):
        for work in works:
            names, seconds = by_launch(device, work, launch_name)
            if len(seconds) != len(names):
                raise SystemExit(f"{work.__name__}: {len(names)} launches were seen, {len(seconds)} were timed.")
            if index:  # the first compiles
                for name, one in zip(names, seconds, strict=True):
                    took.setdefault(name, []).append(one * 1e6)
    return {name: statistics.median(all_) for name, all_ in took.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backend", default="cuda")
    parser.add_argument("--rounds", type=int, default=5, help="of all work, after one that compiles")
    parser.add_argument("--json", type=Path, help="file for the numbers")
    options = parser.parse_args()
    found = measure(options.backend, options.rounds)
    for name, us in sorted(found.items()):
        print(f"{us:10.1f} us  {name}")
    write_figures(options.json, runtime.current(), {"us": found})


if __name__ == "__main__":
    main()
