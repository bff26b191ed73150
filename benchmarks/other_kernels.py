"""Device time of the launches of kernel_workloads.py: the kernels that the 12.3M GPT's training step has no use for.

    python benchmarks/other_kernels.py --json out/other_kernels.json                     on cuda
    python benchmarks/kernel_table.py --only others --others out/other_kernels.json      beside what was counted

Each launch runs between two events, in work as a program does it, which may read results in between. So a short launch
has in it what the events take, about 2 us.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from kernel_workloads import WORK, launch_name  # noqa: E402

import dualml as dm  # noqa: E402
from dualml import runtime  # noqa: E402
from dualml.safe_files import replacing  # noqa: E402


class Names:
    """A hook on the one door: what each launch was, with its sizes."""

    def __init__(self) -> None:
        self.found: list[str] = []

    def before(self, launch: runtime.Launch) -> None:
        self.found.append(launch_name(launch.spec, launch.dims))

    def after(self, launch: runtime.Launch) -> None: ...


def measure(backend: str, rounds: int, works: Sequence[Callable[[], None]] = WORK) -> dict[str, Any]:
    """Microseconds by a launch's name: the median of all launches of that name, of all rounds but the first."""
    dm.set_backend(backend)
    device, took = runtime.current(), dict[str, list[float]]()
    for index in range(rounds + 1):
        for work in works:
            names = Names()
            if not device.begin_timing():
                raise SystemExit(f"{backend} has no clock for single launches.")
            runtime.hooks.append(names)
            try:
                work()
            finally:
                runtime.hooks.remove(names)
                seconds = device.end_timing()
            if len(seconds) != len(names.found):
                raise SystemExit(f"{work.__name__}: {len(names.found)} launches were seen, {len(seconds)} were timed.")
            if index:  # the first compiles
                for name, one in zip(names.found, seconds, strict=True):
                    took.setdefault(name, []).append(one * 1e6)
    return {"backend": device.name, "device": device.device.name, "driver": device.device.driver,
            "date": time.strftime("%Y-%m-%d"), "us": {name: statistics.median(all_) for name, all_ in took.items()}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backend", default="cuda")
    parser.add_argument("--rounds", type=int, default=5, help="of all work, after one that compiles")
    parser.add_argument("--json", type=Path, help="file for the numbers")
    options = parser.parse_args()
    found = measure(options.backend, options.rounds)
    for name, us in sorted(found["us"].items()):
        print(f"{us:10.1f} us  {name}")
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        with replacing(options.json, "Name another --json.") as partial:
            partial.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
