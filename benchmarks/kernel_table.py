"""What kernels move, compute and take, and the least time an H200 needs for them: the tables of docs/kernels.md.

    python benchmarks/kernel_table.py                     the tables, as Markdown: a minute or two
    python benchmarks/kernel_table.py --write             puts them into docs/kernels.md
    python benchmarks/kernel_table.py --only step --precision float32 --batch 8 --dropout 0
    python benchmarks/kernel_table.py --only step --measured out/step_kernels.json --write      beside what was measured

`step` is the 12.3M GPT's training step, `others` all kernels that it has no use for, `attention`, `lengths` and
`products` are of the kernels on tensor cores. Nothing runs: launches go to a device that only notes what it is told,
and the kernels are compiled by NVRTC, which says how many registers and how much shared memory they take. All of it is
counted, but for a column of what step_kernels.py measured elsewhere.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "benchmarks"), str(ROOT)]

import step_kernels  # noqa: E402
from kernel_counts import (  # noqa: E402
    BANDWIDTH,
    MMA_SHARE,
    MULTIPROCESSORS,
    TENSOR_CORES,
    WARPS,
    Row,
    bias_bytes,
    blocks_of,
    bytes_of,
    compiled,
    floor_of,
    flops_of,
    noting,
    resources,
    rows_of,
)
from kernel_workloads import ELEMENTWISE, Noted, launch_name, launches, normal, sizes  # noqa: E402

from dualml import amp  # noqa: E402
from dualml.backends.cuda_graph import turns  # noqa: E402
from dualml.kernel import KERNELS, Spec  # noqa: E402
from dualml.nn import functional as F  # noqa: E402
from dualml.ops.matmul import gemm  # noqa: E402
from dualml.programs.recording import Item  # noqa: E402
from dualml.safe_files import replacing  # noqa: E402

TARGET = 3.3e-3


def header(columns: str) -> list[str]:
    """The first lines of a table: columns between commas, where `;` stands for a comma and `:` for numbers below."""
    names = columns.split(", ")
    return [f"| {' | '.join(name.rstrip(':').replace(';', ',') for name in names)} |",
            f"|{'|'.join('---:' if name.endswith(':') else '---' for name in names)}|"]


def occupancy(spec: Spec, registers: int, shared: int) -> str:
    blocks = blocks_of(registers, shared, spec.block)
    return f"{blocks}, {blocks * spec.block / 32 / WARPS:.0%}"


# ---- the step -------------------------------------------------------------------------------------------------------

def captured(precision: str, batch: int, dropout: float, joined: Sequence[str] = ()) -> Any:
    """The program of a training step: forward, backward, clipping, AdamW. `joined`: what products take on."""
    noting().joined = frozenset(joined)
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
    rows, device = rows_of(program.items), noting().device
    times = {row["kernel"]: row["us"] for row in measured.get("rows", ())}
    where = "not yet run on a GPU"
    if measured:
        where = f"on {measured['device']} ({measured['driver']}), {measured['date']}"
    lines = [f"Counted, not run: {batch} x 256 = {batch * 256:,} tokens, {precision}, dropout {dropout:g}; forward, "
             f"backward, clipping, AdamW. {program.recorded} launches, {program.launches} after fusion. GB, GFLOP and "
             f"us are sums over a row's launches. Measured: {where}.", "",
             *header("kernel, launches:, GB:, GFLOP:, floor us:, measured us:, bound, threads:, registers:, "
                     "shared KiB:, blocks a SM; occupancy")]
    for row in rows:
        registers, shared = resources(row.spec, device)
        few = f"; only {row.groups} in all" if row.groups < MULTIPROCESSORS else ""
        lines.append(f"| {row.name} | {row.launches} | {row.bytes / 1e9:.3f} | {(row.tensor + row.other) / 1e9:.2f} | "
                     f"{row.floor * 1e6:.1f} | {measured_cell(times.get(row.name), row.floor)} | "
                     f"{', '.join(sorted(row.bounds))} | {row.spec.block} | {registers} | {shared / 1024:.3g} | "
                     f"{occupancy(row.spec, registers, shared)}{few} |")
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
            f"{floor * 1e3:.2f} ms, {floor / TARGET:.0%} of the {TARGET * 1e3:.1f} ms that are the target.", *took,
            "", parts(rows), f"Not counted: that launches start and drain; 2 us for each would be "
            f"{program.launches * 2e-6 / floor:.0%} more.", "",
            epilogues(program, precision, batch, dropout), "", branches(program)]


def parts(rows: list[Row]) -> str:
    """What bounds the step, and what is large of all that is neither products nor attention."""
    kinds = {"norms": "layer_norm", "GELU": "bias_gelu", "sums of columns": "reduce_columns|sum_", "AdamW": "adamw",
             "cross entropy": "cross_entropy", "casts": "cast_"}
    sums = {kind: sum(r.floor for r in rows if re.search(word, r.name)) * 1e3 for kind, word in kinds.items()}
    bound = sum(r.floor for r in rows if r.bounds == {"memory"}) / sum(r.floor for r in rows)
    return (f"Memory bounds {bound:.0%} of it. Besides products and attention: "
            f"{', '.join(f'{kind} {ms:.2f} ms' for kind, ms in sums.items())}.")


def epilogues(program: Any, precision: str, batch: int, dropout: float) -> str:
    """What cuBLASLt's would save: cuBLAS finds biases written by products of their own, and does nothing else."""
    def floor(items: Sequence[Item], without: bool) -> float:
        return sum(floor_of(i, bytes_of(i) - without * bias_bytes(i), *flops_of(i))[1] for i in items) * 1e3
    steps = {"biases": program} | {what: captured(precision, batch, dropout, joined) for what, joined in (
        ("GELU and its gradient", ["gelu_tanh"]), ("gradients of biases", ["gelu_tanh", "sums"]))}
    noting().joined = frozenset()
    floors = [floor(program.items, False), *(floor(step.items, True) for step in steps.values())]
    saved = ", ".join(f"{what} {one - two:.2f} ms" for what, (one, two) in zip(steps, pairwise(floors), strict=True))
    return (f"`DUALML_CUBLASLT=1` lets cuBLASLt do it with {steps['gradients of biases'].launches} launches in "
            f"{floors[-1]:.2f} ms, {floors[-1] / floors[0] - 1:+.0%} (counted, not measured): {saved}.")


def branches(program: Any) -> str:
    """How the CUDA graph of the step would spread over streams."""
    paths = list[int]()
    for one in program._frozen:
        paths.append(1 + max((paths[other] for other in one.after), default=0))
    lanes = {streams: Counter(turn.lane for turn in turns(program._frozen, streams)) for streams in (2, 3)}
    return (f"As a graph: of {len(paths)} launches the longest path has {max(paths)}. Two streams: {lanes[2][1]} go to "
            f"the second; three: {lanes[3][1]} and {lanes[3][2]} to the others.")


def measured_cell(us: float | None, floor: float) -> str:
    """Microseconds, and what share of them the floor is."""
    return "-" if not us else f"{us:.1f} ({floor * 1e6 / us:.0%})"


# ---- all other kernels ----------------------------------------------------------------------------------------------

def figure(x: float) -> str:
    """Three digits, and none of what is next to nothing."""
    return f"{x:,.3g}" if 0.01 <= x < 1000 else f"{x:,.0f}" if x >= 1000 else "0.00"


def others(known: set[str], measured: dict[str, Any]) -> list[str]:
    """The declared kernels that are not known yet, each by the launch of kernel_workloads.py that moves most."""
    took = measured.get("us", {})
    largest: dict[str, Item] = {}
    device = noting().device
    for item in launches():
        if item.name in KERNELS.keys() | ELEMENTWISE and item.name not in known \
                and (item.name not in largest or bytes_of(item) > bytes_of(largest[item.name])):
            largest[item.name] = item
    missing = sorted((KERNELS.keys() | ELEMENTWISE) - known - largest.keys())
    if missing:
        raise SystemExit(f"benchmarks/kernel_workloads.py has no work for {', '.join(missing)}.")
    where = f"on {measured['device']} ({measured['driver']}), {measured['date']}" if took else "not yet run on a GPU"
    lines = [f"Measured: {where}.", ""]
    lines += header("kernel, sizes, MB:, GFLOP:, floor us:, measured us:, bound, threads:, registers:, "
                    "shared KiB:, blocks a SM; occupancy")
    for name, item in sorted(largest.items()):
        assert item.spec is not None
        moved, (tensor, other) = bytes_of(item), flops_of(item)
        bound, seconds = floor_of(item, moved, tensor, other)
        registers, shared = resources(item.spec, device)
        dtypes = step_kernels.label(item.spec, item.dims).partition("` ")[2]
        variant = item.spec.stem.partition(".")[2]
        counted = " | ".join(figure(x) for x in (moved / 1e6, (tensor + other) / 1e9, seconds * 1e6))
        lines.append(f"| `{name}{variant and '.' + variant}` {dtypes} | {sizes(item.dims)} | {counted} | "
                     f"{measured_cell(took.get(launch_name(item.spec, item.dims)), seconds)} | {bound} | "
                     f"{item.spec.block} | {registers} | {shared / 1024:.3g} | "
                     f"{occupancy(item.spec, registers, shared)} |")
    return lines


# ---- tensor cores ---------------------------------------------------------------------------------------------------

def attended(arch: int, batch: int, heads: int, length: int, size: int) -> list[Item]:
    """Forward and backward of causal attention in bfloat16, packed."""
    noting(arch)
    qkv = normal(batch, length, 3 * heads * size, grad=True)
    with Noted() as items:
        F.attention_qkv(qkv, heads).sum().backward()
    return [item for item in items if item.name in ("attention_forward", "attention_backward")]


Taken = tuple[int, int, int, str, str]


def taken(spec: Spec) -> Taken:
    """Registers on sm_90 and sm_80, shared memory, occupancy, and the instructions of tensor cores in PTX."""
    registers, shared, ptx = compiled(spec, noting().device)
    older = compiled(spec, noting(80).device)[0]
    return (registers, older, shared, occupancy(spec, registers, shared),
            f"{ptx.count('mma.sync')}, {ptx.count('ldmatrix')}")


def row_of(units: list[Taken]) -> str:
    """The end of a row: each figure, or the least and the largest of several units."""
    newer, older, shared, busy, instructions = (
        " to ".join(str(x) for x in dict.fromkeys((min(each), max(each)))) for each in zip(*units, strict=True))
    return f"{newer} ({older}) | {int(shared) / 1024:.3g} KiB | {busy} | {instructions} |"


def attention() -> list[str]:
    lines = header("kernel, head:, owned x streamed; threads, registers (sm_80):, shared memory:, blocks a SM; "
                   "occupancy, mma; ldmatrix in the code")
    for which in range(2):
        for size in (32, 64, 96, 128):
            item = attended(90, 1, 1, 128, size)[which]
            assert item.spec is not None
            tile = dict(item.spec.constants)
            lines.append(f"| {item.name.removeprefix('attention_')} | {size} | {tile['ROWS']} x {tile['COLS']}, "
                         f"{item.spec.block} | {row_of([taken(item.spec)])}")
    return lines


def lengths() -> list[str]:
    lines = header("kernel, head:, T:, bytes:, work:, memory floor:, tensor-core floor:, `mma.sync` floor:, "
                   "TFLOP/s at that floor:")
    for size in (64, 128):
        for length in (1024, 16384):
            for item in attended(90, 8, 16, length, size):
                moved, (work, _) = bytes_of(item), flops_of(item)
                slow = work / TENSOR_CORES / MMA_SHARE
                common = work * (5 / 7 if "backward" in item.name else 1)
                floors = " | ".join(f"{x * 1e6:,.0f} us" for x in (moved / BANDWIDTH, work / TENSOR_CORES, slow))
                name = item.name.removeprefix("attention_")
                lines.append(f"| {name} | {size} | {length:,} | {moved / 1e6:,.1f} MB | {work / 1e9:,.1f} GFLOP | "
                             f"{floors} | {common / slow / 1e12:.0f} |")
    return lines


def products() -> list[str]:
    """Each tile, of all ways of storing."""
    lines = header("tile, threads:, summed in a slice; slices, registers (sm_80):, shared memory:, blocks a SM; "
                   "occupancy, mma; ldmatrix in the code")
    for rows, columns in ((16384, 1536), (512, 512), (16, 50304)):
        found = []
        for ta, tb in ((False, False), (False, True), (True, False), (True, True)):
            noting()
            a = normal(1, *((384, rows) if ta else (rows, 384)))
            b = normal(1, *((columns, 384) if tb else (384, columns)))
            with Noted() as items:
                gemm(a._array, b._array, ta=ta, tb=tb)
            spec = items[0].spec
            assert spec is not None
            found.append((spec, taken(spec)))
        tile = dict(found[0][0].constants)
        lines.append(f"| {tile['ROWS']} x {tile['COLS']} | {found[0][0].block} | {tile['DEPTH']}, {tile['STAGES']} | "
                     + row_of([t for _, t in found]))
    return lines


# ---- the page -------------------------------------------------------------------------------------------------------

def read(path: Path | None) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path else {}
    return found


def written(text: str, name: str, lines: list[str]) -> str:
    """The page with a table in place of the one of that name."""
    begin, end = f"<!-- benchmarks/kernel_table.py {name} -->", "<!-- end -->"
    head, found, rest = text.partition(begin)
    if not found or end not in rest:
        raise SystemExit(f"docs/kernels.md has no {begin} ... {end} to put the table between.")
    return "\n".join([head + begin, *lines, end]) + rest.partition(end)[2]


def tables(options: argparse.Namespace) -> Iterator[tuple[str, list[str]]]:
    step = options.precision, options.batch, options.dropout
    program = captured(*step) if options.only in (None, "step", "others") else None
    made: dict[str, Callable[[], list[str]]] = {
        "step": lambda: table(program, *step, measured_by(options.measured, *step)),
        "others": lambda: others({item.name for item in program.items}, read(options.others)),
        "attention": attention, "lengths": lengths, "products": products}
    for name in made if options.only is None else (options.only,):
        yield name, made[name]()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=("step", "others", "attention", "lengths", "products"), help="one table")
    parser.add_argument("--precision", choices=amp.PRECISIONS, default="bfloat16", help="of the step")
    parser.add_argument("--batch", type=int, default=64, help="sequences of 256 tokens in the step")
    parser.add_argument("--dropout", type=float, default=0.1, help="in the step")
    parser.add_argument("--measured", type=Path, metavar="FILE", help="of step_kernels.py, for a column of what was "
                        "measured, with the floor's share of it")
    parser.add_argument("--others", type=Path, metavar="FILE", help="of other_kernels.py, the same for all others")
    parser.add_argument("--write", action="store_true", help="replace the tables in docs/kernels.md")
    options = parser.parse_args()
    if options.measured and options.only not in (None, "step"):
        parser.error(f"--measured is of the step, which --only {options.only} leaves out")
    page = ROOT / "docs" / "kernels.md"
    text = page.read_text(encoding="utf-8")
    for name, lines in tables(options):
        if options.write:
            text = written(text, name, lines)
        else:
            print("\n".join([f"{name}:", "", *lines, ""]))
    if options.write:
        with replacing(page, "Give --write where docs/ may be written to.") as made:
            made.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
