"""What each kernel of the 12.3M GPT's training step moves and computes, and the least time an H200 needs for it.

    python benchmarks/kernel_table.py                     the table, as Markdown
    python benchmarks/kernel_table.py --write             puts it into docs/kernels.md
    python benchmarks/kernel_table.py --precision float32 --batch 8 --dropout 0
    python benchmarks/kernel_table.py --measured out/step_kernels.json --write      beside what step_kernels.py measured

Nothing runs: the step is captured for a device that only notes what it is told, and the kernels are compiled by NVRTC,
which says how many registers and how much shared memory they take. All of it is counted, but for a column of what was
measured elsewhere.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "benchmarks"), str(ROOT)]

import step_kernels  # noqa: E402

import dualml as dm  # noqa: E402
from dualml import amp, runtime  # noqa: E402
from dualml.backends.nvrtc import (  # noqa: E402
    compile_options,
    dynamic_shared,
    inline_headers,
    rounding,
    target_of,
)
from dualml.backends.sources import cuda_source  # noqa: E402
from dualml.kernel import DeviceInfo, Spec  # noqa: E402
from dualml.programs.costs import PICKED  # noqa: E402
from dualml.programs.recording import Item, Place  # noqa: E402
from dualml.safe_files import replacing  # noqa: E402
from tests.test_nvrtc import Recorder, compile_unit, nvrtc  # noqa: E402

ARCH, MULTIPROCESSORS = 90, 132
BANDWIDTH, TENSOR_CORES, CORES = 4.8e12, 989e12, 67e12  # of an H200: bytes/s, 16-bit and float32 FLOP/s
INTEGERS = 15e12  # operations/s: 64 a clock and multiprocessor
REGISTERS, WARPS, BLOCKS, SHARED, SHARED_SPENT = 65536, 64, 32, 228 << 10, 1 << 10  # of a multiprocessor; of a block
TARGET = 3.3e-3
BEGIN, END = "<!-- benchmarks/kernel_table.py -->", "<!-- end -->"
_USED = re.compile(r"Used (\d+) registers(?:.*?(\d+) bytes smem)?")
# Additions and multiplications, with functions as ten, per element of the largest tensor: rough, and nowhere the bound.
_PER_ELEMENT = {"dropout_forward": 15, "layer_norm_forward": 8, "layer_norm_backward": 14, "bias_gelu_forward": 20,
                "dropout_layer_norm_forward": 23, "layer_norm_dropout_backward": 29, "bias_gelu_backward": 30,
                "cross_entropy_in_place": 28, "cross_entropy_forward": 14, "cross_entropy_backward": 14, "adamw": 25}


class Noting(Recorder):
    """An H200 that only notes what it is given to do."""

    def __init__(self) -> None:
        super().__init__(ARCH)
        self.name = "noting"
        self.device = DeviceInfo("cuda", "H200", subgroup_size=32, arch=ARCH,
                                 limits={"multiprocessors": MULTIPROCESSORS})

    @property
    def own_products(self) -> bool:
        return False  # cuBLAS makes them, one at a time


# ---- what a launch does ---------------------------------------------------------------------------------------------

def _length(places: Iterable[Place]) -> int:
    """Bytes of stretches, each byte once."""
    total, ends = 0, dict[int, int]()
    for place in sorted(places, key=lambda p: (p.number, p.offset)):
        begin = max(place.offset, ends.get(place.number, 0))
        total += max(0, place.offset + place.nbytes - begin)
        ends[place.number] = max(ends.get(place.number, 0), place.offset + place.nbytes)
    return total


def bytes_of(item: Item) -> int:
    """Bytes read plus bytes written, every tensor once; of a table no more than the rows that are asked for."""
    moved = list(item.accesses())
    if item.spec is not None and item.name in PICKED:
        at = [arg.name for arg in item.spec.kernel.args].index(PICKED[item.name])
        table, rows = item.places[at], item.places[-1]
        moved[at] = Place(table.number, table.offset, min(table.nbytes, rows.nbytes)), "read"
    beside = 2 * item.places[-1].nbytes if item.dims.get("has_bias") else 0  # cuBLAS finds a bias written by a product
    return beside + _length(p for p, how in moved if how != "write") + _length(p for p, how in moved if how != "read")


def flops_of(item: Item) -> tuple[int, int]:
    """Operations of tensor cores and of others."""
    assert item.spec is not None
    d: dict[str, Any] = dict(item.dims)
    products = rest = 0
    if item.name == "matmul":
        products = 2 * d["M"] * d["N"] * d["K"] * d["B"]
    elif item.name in ("attention_forward", "attention_backward"):
        seen = d["B"] * d["H"] * sum(min(d["TK"], row + 1 + d["offset"]) for row in range(d["TQ"]))  # queries x keys
        products, rest = 2 * (2 if item.name == "attention_forward" else 7) * d["D"] * seen, 10 * seen
    if products:
        return (products, rest) if item.spec.types[0][1].host.itemsize == 2 else (0, products + rest)
    if item.name == "embedding_order":
        return 0, 50 * d["N"] * item.groups  # every index is sought in every block
    sizes = [place.nbytes // item.spec.dtype(arg).host.itemsize
             for place, arg in zip(item.places, item.spec.kernel.args, strict=True)]
    return 0, _PER_ELEMENT.get(item.name, 2) * max(sizes)


@dataclass
class Row:
    """Launches of one kernel; matrix products of one shape."""

    name: str
    spec: Spec
    groups: int = 0
    launches: int = 0
    bytes: int = 0
    tensor: int = 0
    other: int = 0
    floor: float = 0.0
    bounds: set[str] = field(default_factory=set)

    def add(self, item: Item) -> None:
        moved, (tensor, other) = bytes_of(item), flops_of(item)
        used = min(1, item.groups / MULTIPROCESSORS)  # a block stays on one multiprocessor
        speed = used * (INTEGERS if item.name == "embedding_order" else CORES)
        times = {"memory": moved / BANDWIDTH, "tensor cores": tensor / TENSOR_CORES, "cores": other / speed}
        bound = max(times, key=lambda name: times[name])
        self.launches += 1
        self.groups = max(self.groups, item.groups)
        self.bytes, self.tensor, self.other = self.bytes + moved, self.tensor + tensor, self.other + other
        self.floor += times[bound]
        self.bounds.add(bound)


def rows_of(items: Sequence[Item]) -> list[Row]:
    found: dict[Any, Row] = {}
    for item in items:
        assert item.spec is not None, "a copy has no kernel"
        name = step_kernels.label(item.spec, item.dims)
        found.setdefault((name, item.spec.variant), Row(name, item.spec)).add(item)
    return sorted(found.values(), key=lambda row: -row.floor)


# ---- what a kernel takes --------------------------------------------------------------------------------------------

def resources(spec: Spec, device: DeviceInfo) -> tuple[int, int]:
    """Registers of a thread and bytes of shared memory of a block."""
    source, compiler = inline_headers(cuda_source(spec, device)), nvrtc()
    if compiler is None:
        raise SystemExit("NVRTC's wheels are not installed: pip install -e '.[nvrtc]'")
    works, log, _ = compile_unit(source, (*compile_options(target_of(ARCH, (ARCH,)), compiler[1]),
                                          rounding(spec), "--ptxas-options=-v"))
    used = _USED.search(log)
    if not works or used is None:
        raise SystemExit(f"{spec.stem} does not compile: {log}")
    return int(used[1]), int(used[2] or 0) + dynamic_shared(source)


def blocks_of(registers: int, shared: int, threads: int) -> int:
    """Blocks that a multiprocessor holds at a time. Registers are given to warps by 256, shared memory by 128 bytes."""
    warps = math.ceil(threads / 32)
    by_registers = REGISTERS // (math.ceil(registers * 32 / 256) * 256) // warps
    by_shared = SHARED // (math.ceil(shared / 128) * 128 + SHARED_SPENT)
    return min(by_registers, by_shared, WARPS // warps, BLOCKS)


# ---- the step -------------------------------------------------------------------------------------------------------

def captured(precision: str, batch: int, dropout: float) -> Any:
    """The program of a training step: forward, backward, clipping, AdamW."""
    runtime.register_backend("noting", __name__, "Noting")
    dm.set_backend("noting")
    return step_kernels.captured(precision, batch, dropout).programs[0]


def measured_by(path: Path | None, precision: str, batch: int, dropout: float) -> dict[str, Any]:
    """What step_kernels.py wrote, if it is of this very step."""
    if path is None:
        return {}
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    asked = {"precision": precision, "batch": batch, "dropout": dropout}
    other = {k: found.get(k) for k, v in asked.items() if found.get(k) != v}
    if other:
        raise SystemExit(f"{path} is of another step: it has {other}, this is {asked}.")
    return found


def table(program: Any, precision: str, batch: int, dropout: float, measured: dict[str, Any]) -> list[str]:
    device, rows = runtime.get("noting").device, rows_of(program.items)
    times = {row["kernel"]: row["us"] for row in measured.get("rows", ())}
    where = "not yet run on a GPU"
    if measured:
        where = f"on {measured['device']} ({measured['driver']}), {measured['date']}"
    lines = [f"Counted, not run: {batch} x 256 = {batch * 256:,} tokens, {precision}, dropout {dropout:g}; forward, "
             f"backward, clipping, AdamW. {program.recorded} launches, {program.launches} after fusion. GB, GFLOP and "
             f"us are sums over a row's launches. Measured: {where}.", "",
             "| kernel | launches | GB | GFLOP | floor us | measured us | bound | threads | registers | shared KiB | "
             "blocks a SM, occupancy |", "|---|---:|---:|---:|---:|---:|---|---:|---:|---:|---|"]
    for row in rows:
        registers, shared = resources(row.spec, device)
        blocks, threads = blocks_of(registers, shared, row.spec.block), row.spec.block
        busy = blocks * threads / 32 / WARPS
        few = f"; only {row.groups} in all" if row.groups < MULTIPROCESSORS else ""
        lines.append(f"| {row.name} | {row.launches} | {row.bytes / 1e9:.3f} | {(row.tensor + row.other) / 1e9:.2f} | "
                     f"{row.floor * 1e6:.1f} | {measured_cell(times.get(row.name), row.floor)} | "
                     f"{', '.join(sorted(row.bounds))} | {threads} | {registers} | {shared / 1024:.3g} | "
                     f"{blocks}, {busy:.0%}{few} |")
    floor, moved = sum(r.floor for r in rows), sum(r.bytes for r in rows)
    products = sum(r.floor for r in rows if r.tensor)
    took = [f"Measured: launch by launch {sum(times.values()) / 1e3:.2f} ms, replayed as a graph "
            f"{measured['step ms']:.2f} ms."] if measured else []
    unknown = sorted(times.keys() - {row.name for row in rows})
    took += [f"Measured, but not counted here: {', '.join(unknown)}."] if unknown else []
    return [*lines, f"| **all** | **{program.launches}** | **{moved / 1e9:.2f}** | "
                    f"**{sum(r.tensor + r.other for r in rows) / 1e9:.0f}** | **{floor * 1e6:.0f}** | "
                    f"{measured_cell(sum(times.values()) or None, floor)} | | | | | |", "",
            f"Products and attention {products * 1e3:.2f} ms, all else {(floor - products) * 1e3:.2f} ms: "
            f"{floor * 1e3:.2f} ms, {floor / TARGET:.0%} of the {TARGET * 1e3:.1f} ms that are the target.", *took]


def measured_cell(us: float | None, floor: float) -> str:
    """Microseconds, and what share of them the floor is."""
    return "-" if not us else f"{us:.1f} ({floor * 1e6 / us:.0%})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--precision", choices=amp.PRECISIONS, default="bfloat16")
    parser.add_argument("--batch", type=int, default=64, help="sequences of 256 tokens")
    parser.add_argument("--dropout", type=float, default=0.1)
    parser.add_argument("--measured", type=Path, metavar="FILE", help="of step_kernels.py, for a column of what was "
                        "measured, with the floor's share of it")
    parser.add_argument("--write", action="store_true", help="replace the table in docs/kernels.md")
    options = parser.parse_args()
    step = options.precision, options.batch, options.dropout
    measured = measured_by(options.measured, *step)
    lines = table(captured(*step), *step, measured)
    if not options.write:
        print("\n".join(lines))
        return
    page = ROOT / "docs" / "kernels.md"
    text = page.read_text(encoding="utf-8")
    head, found, rest = text.partition(BEGIN)
    if not found or END not in rest:
        raise SystemExit(f"{page} has no {BEGIN} ... {END} to put the table between.")
    with replacing(page, "Give --write where docs/ may be written to.") as made:
        made.write_text("\n".join([head + BEGIN, *lines, END]) + rest.partition(END)[2], encoding="utf-8")


if __name__ == "__main__":
    main()
