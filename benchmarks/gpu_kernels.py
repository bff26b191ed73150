"""Device time of kernels beside PyTorch's, eager and compiled, and beside what the device itself can do.

    python benchmarks/gpu_kernels.py --json out/kernels.json
    python benchmarks/gpu_kernels.py --only layer_norm_backward adamw --variants    other forms of the same kernels too
    python benchmarks/gpu_kernels.py --backend cpu --torch cpu --tiny               tries the script; no figures

First comes what a copy of 1 GiB moves and what the largest products reach; then each kernel of the 12.3M GPT's training
step at 16,384 tokens, some at larger sizes. `share` is that of its time which it would need at the copy's speed, or at
that of the large product in its dtype, whichever is more. Bytes are the fewest that must move. Buffers take turns so
that no set is still in the cache; all alternate, medians are told (device_clock.py says how). float32 products are
without TF32 on both sides. The file is written after each case. Products are checked before they are timed, in each
form: a wrong one is told in its row, counts for no target, and makes the exit status 1.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from device_clock import Contestant, Form, HostClock, OurClock, Sample, TorchClock, compare, rotated  # noqa: E402
from figures import write_figures  # noqa: E402
from kernel_cases import BYTES, Case, OurMaker, Rival, TorchMaker, cases  # noqa: E402
from targets import number, table  # noqa: E402

from dualml import runtime  # noqa: E402
from dualml.ops.matmul import gemm  # noqa: E402

ROTATED, MOST_SETS = 256 << 20, 12  # bytes that sets in turn have at least, several times the cache; sets at most
COLUMNS = ("kernel", "shape", "dtype", "way", "ms", "TB/s", "TFLOP/s", "share", "to eager", "to compiled", "host us")


def line(row: dict[str, Any]) -> str:
    text = [number(row[c]) for c in COLUMNS]
    return " ".join(f"{t:{w}s}" for t, w in zip(text, (24, 19, 8, 14), strict=False)) + "".join(
        f"{t:>12s}" for t in text[4:])


class Bench:
    """The two sides of one run, and what it found."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self.backend = options, runtime.get(options.backend)
        size = {"cover_bytes": 1 << 16} if options.tiny else {}
        self.clock: HostClock = OurClock(self.backend, **size)
        self.torch_clock: HostClock | None = None
        if options.torch != "none":
            import torch
            torch.set_float32_matmul_precision("highest")  # no TF32
            self.torch, self.torch_clock = torch, TorchClock(options.torch, **size)
        self.rows: list[dict[str, Any]] = []
        self.targets: list[dict[str, Any]] = []
        self.failed: list[str] = []
        self.copy, self.products = 0.0, dict[str, float]()

    def measured(self, contestants: list[Contestant]) -> dict[str, Sample]:
        return compare(contestants, self.options.rounds, self.options.seconds)

    # ---- what the device can do ----

    def ceilings(self) -> None:
        """Bytes per second of a copy and operations per second of large products, of the better side."""
        sides = [("dualml", self.clock), *([("torch eager", self.torch_clock)] if self.torch_clock else [])]
        found = self.measured([Contestant(name, clock, clock.cover) for name, clock in sides])
        moved = 2 * self.clock.cover_bytes  # type: ignore[attr-defined]
        for name, sample in found.items():
            self.add("copy", f"{moved >> 21} MiB", "bytes", name, sample, moved, 0)
        self.copy = moved / min(s.seconds for s in found.values())
        for row in self.rows:
            row["share"] = row["TB/s"] * 1e12 / self.copy
        for dtype, n in (("bfloat16", 8192), ("float32", 4096)):
            self._large_product(dtype, 32 if self.options.tiny else n)

    def _large_product(self, dtype: str, n: int) -> None:
        a = OurMaker(self.backend).normal(1, n, n, dtype=dtype)
        team = [Contestant("dualml", self.clock, lambda: gemm(a, a))]
        if self.torch_clock:
            b = TorchMaker(self.torch, self.options.torch).normal(n, n, dtype=dtype)
            team.append(Contestant("torch eager", self.torch_clock, lambda: b @ b))
        found = self.measured(team)
        if found:
            self.products[dtype] = 2 * n**3 / min(s.seconds for s in found.values())
        for name, sample in found.items():
            self.add("matmul cube", f"{n}x{n}x{n}", dtype, name, sample, 3 * n * n * BYTES[dtype], 2 * n**3)

    # ---- a case ----

    def run(self, case: Case) -> None:
        sets = 2 if self.options.tiny else max(2, min(MOST_SETS, -(-ROTATED // case.moved)))
        make = OurMaker(self.backend)
        team = [self._ours(case, make, sets, "dualml", Form(), {})]
        for v in case.variations if self.options.variants or case.name.startswith("matmul") else ():
            form = Form(*case.kernels, block=v.block, without_vendor=self.backend if v.without_vendor else None)
            team.append(self._ours(case, make, sets, v.name, form, dict(v.options)))
        team += [self._rival(rival, sets) for rival in case.rivals
                 if self.torch_clock and (self.options.compile or not rival.compiled)]
        found = self.measured(self._made(team))
        for name, sample in found.items():
            self.add(case.name, case.shape, case.dtype, name, sample, case.moved, case.flops, found)
        if case.target is not None:
            self._judge(case, found)
        wanted = ["dualml", *(v.name for v in case.variations if case.check)]
        self.failed += [f"{case.name} {case.shape} {case.dtype}, {name}: no figure, why stands above"
                        for name in wanted if name not in found]

    def _made(self, team: list[Callable[[], Contestant]]) -> Iterator[Contestant]:
        """Contestants with their buffers, but for those that there is no memory or no program for."""
        for one in team:
            try:
                yield one()
            except Exception as error:
                print(f"  {type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]}", flush=True)

    def _ours(self, case: Case, make: OurMaker, sets: int, name: str, form: Form, options: dict[str, Any]) -> \
            Callable[[], Contestant]:
        def made() -> Contestant:
            with form:
                works = [case.ours(make, **options) for _ in range(sets)]
            check = (lambda: case.check(self.backend)) if case.check else None
            return Contestant(name, self.clock, rotated(works), form, warmups=sets + 1, check=check)
        return made

    def _rival(self, rival: Rival, sets: int) -> Callable[[], Contestant]:
        def made() -> Contestant:
            make = TorchMaker(self.torch, self.options.torch)
            args = [rival.args(make) for _ in range(sets)]
            piece = rival.piece
            if rival.compiled:
                self.torch.compiler.reset()  # each case compiles anew; what came before is done
                piece = self.torch.compile(rival.piece, dynamic=False)
            assert self.torch_clock is not None
            return Contestant(rival.name, self.torch_clock, rotated([lambda a=a: rival.use(piece, *a) for a in args]),
                              warmups=sets + 1)
        return made

    def let_go(self) -> None:
        """Gives memory of a case back."""
        self.backend.trim()
        if self.torch_clock and self.torch_clock.device_time:
            self.torch.cuda.empty_cache()

    # ---- what was found ----

    def add(self, kernel: str, shape: str, dtype: str, way: str, sample: Sample, moved: int, flops: int,
            beside: dict[str, Sample] | None = None) -> None:
        floor = max(moved / self.copy if self.copy else 0.0, flops / self.products.get(dtype, math.inf))
        row = {"kernel": kernel, "shape": shape, "dtype": dtype, "way": way, "ms": sample.seconds * 1e3,
               "TB/s": moved / sample.seconds / 1e12, "TFLOP/s": flops / sample.seconds / 1e12 if flops else None,
               "share": floor / sample.seconds,
               "host us": sample.host * 1e6, "covered": sample.covered, "check": sample.check}
        for column, rival in (("to eager", "torch eager"), ("to compiled", "torch compiled")):
            there = (beside or {}).get(rival)
            row[column] = there.seconds / sample.seconds if there and not way.startswith("torch") else None
        self.rows.append(row)
        print(line(row) + ("" if sample.covered else "  (the host's time)") + f"  {sample.wrong}".rstrip(), flush=True)
        if sample.wrong:
            self.failed.append(f"{kernel} {shape} {dtype}, {way}: {sample.wrong}")

    def _judge(self, case: Case, found: dict[str, Sample]) -> None:
        """The chosen form's figure; PyTorch's best beside it."""
        assert case.target is not None

        def figure(name: str) -> float | None:
            if name not in found:
                return None
            speed = case.moved / found[name].seconds
            return speed / self.copy if case.target.unit == "of copy" else speed / 1e12
        theirs = {n: f for n in found if n.startswith("torch") and (f := figure(n)) is not None}
        best = max(theirs, key=lambda n: theirs[n], default="")
        wrong = found["dualml"].wrong if "dualml" in found else ""
        verdict = case.target.verdict(figure("dualml"), theirs.get(best), best, wrong)
        self.targets.append(verdict | {"target": f"{case.target.what}, {case.shape} {case.dtype}"})

    def save(self) -> None:
        write_figures(self.options.json, self.backend, {
            "torch": self.torch.__version__ if self.torch_clock else None, "copy TB/s": self.copy / 1e12,
            "rows": self.rows, "targets": self.targets})


def where_torch_is(asked: str) -> str:
    """cuda, cpu or none."""
    if asked != "auto":
        return asked
    try:
        import torch
    except ImportError:
        return "none"
    return "cuda" if torch.cuda.is_available() else "none"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backend", default="cuda")
    parser.add_argument("--torch", choices=("auto", "cuda", "cpu", "none"), default="auto", help="PyTorch's device")
    parser.add_argument("--no-compile", dest="compile", action="store_false", help="leave torch.compile out")
    parser.add_argument("--only", nargs="+", metavar="WORD", help="cases whose name and sizes have one of these words")
    parser.add_argument("--variants", action="store_true", help="other block sizes of each kernel too")
    parser.add_argument("--rounds", type=int, default=7, help="samples of each, of which the median counts")
    parser.add_argument("--seconds", type=float, default=0.005, help="of calls in a sample, about")
    parser.add_argument("--fast", action="store_true", help="3 rounds, without torch.compile")
    parser.add_argument("--tiny", action="store_true", help="very small sizes, to try the script")
    parser.add_argument("--json", type=Path, help="file for the numbers")
    options = parser.parse_args()
    options.torch = where_torch_is(options.torch)
    if options.fast:
        options.rounds, options.compile = 3, False
    bench = Bench(options)
    print(f"{bench.backend.name} on {bench.backend.device.name}; PyTorch: {options.torch}")
    print(line({c: c for c in COLUMNS}))
    bench.ceilings()
    chosen = [c for c in cases(options.tiny)
              if not options.only or any(word in f"{c.name} {c.shape} {c.dtype}" for word in options.only)]
    for case in chosen:
        bench.run(case)
        bench.let_go()
        bench.save()
    bench.save()
    print("\n".join(["", *table(bench.targets)]))
    if bench.failed:
        raise SystemExit("\n".join(bench.failed))


if __name__ == "__main__":
    main()
