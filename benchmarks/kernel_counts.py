"""What kernels move, compute and take on an H200 that is not there: bytes, operations, the least time for them, and
registers and shared memory by NVRTC. kernel_table.py makes tables of it.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "benchmarks"), str(ROOT)]

import step_kernels  # noqa: E402

import dualml as dm  # noqa: E402
from dualml import runtime  # noqa: E402
from dualml.backends.nvrtc import (  # noqa: E402
    compile_options,
    dynamic_shared,
    inline_headers,
    rounding,
    target_of,
)
from dualml.backends.sources import cuda_source  # noqa: E402
from dualml.dtypes import DType  # noqa: E402
from dualml.kernel import DeviceInfo, Spec  # noqa: E402
from dualml.programs.costs import operations, times, touched  # noqa: E402
from dualml.programs.recording import Item, Place  # noqa: E402
from tests.test_nvrtc import Recorder, compile_unit, nvrtc  # noqa: E402

ARCH, MULTIPROCESSORS = 90, 132
BANDWIDTH, TENSOR_CORES, CORES = 4.8e12, 989e12, 67e12  # of an H200: bytes/s, 16-bit and float32 FLOP/s
MMA_SHARE = 0.62  # of the tensor cores' peak: what we assume that mma.sync reaches on Hopper
INTEGERS = 15e12  # operations/s: 64 a clock and multiprocessor
REGISTERS, WARPS, BLOCKS, SHARED, SHARED_SPENT = 65536, 64, 32, 228 << 10, 1 << 10  # of a multiprocessor; of a block
_USED = re.compile(r"Used (\d+) registers(?:.*?(\d+) bytes smem)?")
# Additions and multiplications, with functions as ten, per element of the largest tensor: rough, and nowhere the bound.
_PER_ELEMENT = {"dropout_forward": 15, "layer_norm_forward": 8, "layer_norm_backward": 14, "bias_gelu_forward": 20,
                "dropout_layer_norm_forward": 23, "layer_norm_dropout_backward": 29, "bias_gelu_backward": 31,
                "cross_entropy_in_place": 28, "cross_entropy_forward": 14, "cross_entropy_backward": 14, "adamw": 25,
                "clip_adamw": 26}


class Noting(Recorder):
    """An H200 that only notes what it is given to do."""

    joined: frozenset[str] = frozenset()  # what `joins` says yes to

    def __init__(self, arch: int = ARCH) -> None:
        super().__init__(arch)
        self.name = f"noting_{arch}"
        self.device = DeviceInfo("cuda", "H200", subgroup_size=32, arch=arch,
                                 limits={"multiprocessors": MULTIPROCESSORS})

    @property
    def own_products(self) -> bool:
        return False  # cuBLAS makes them, one at a time

    def joins(self, what: str, dtype: DType) -> bool:
        return what in self.joined


Noting80 = partial(Noting, 80)


def noting(arch: int = ARCH) -> Noting:
    """Makes the noting device of an architecture the current backend."""
    name = f"noting_{arch}"
    runtime.register_backend(name, __name__, {80: "Noting80", 90: "Noting"}[arch])
    dm.set_backend(name)
    found = runtime.get(name)
    assert isinstance(found, Noting)
    return found


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
    """Bytes read plus bytes written, every tensor once; of a table no more than the rows that are asked for, or put."""
    assert item.spec is not None
    read, written = list[Place](), list[Place]()
    for arg, place in zip(item.spec.kernel.args, item.places, strict=True):
        size = touched(item.spec, item.dims, arg, place.nbytes)
        place = Place(place.number, place.offset, size)
        if arg.access == "read" or times(item.spec, arg) == 2:
            read.append(place)
        if arg.access != "read":
            written.append(place)
    return bias_bytes(item) + _length(read) + _length(written)


def bias_bytes(item: Item) -> int:
    """cuBLAS finds a bias already in place, written by a product of its own."""
    return 2 * item.places[-1].nbytes if item.dims.get("has_bias") else 0


def flops_of(item: Item) -> tuple[int, int]:
    """Operations of tensor cores and of others."""
    assert item.spec is not None
    d: dict[str, Any] = dict(item.dims)
    products = rest = 0
    if item.spec.kernel.source == "matmul":
        products = int(operations(item.spec, item.dims))
    elif item.name in ("attention_forward", "attention_backward"):
        seen = d["B"] * d["H"] * sum(min(d["TK"], row + 1 + d["offset"]) for row in range(d["TQ"]))  # queries x keys
        products, rest = 2 * (2 if item.name == "attention_forward" else 7) * d["D"] * seen, 10 * seen
    elif operations(item.spec, item.dims):
        products = int(operations(item.spec, item.dims) * (1.4 if "backward" in item.name else 1))  # seven, not five
    if products:
        wide = item.spec.types[0][1].host.itemsize > 2 or item.name == "matmul_pair"  # which no tensor core makes
        return (0, products + rest) if wide else (products, rest)
    if item.name == "embedding_order":
        return 0, 50 * d["N"] * item.groups  # every index is sought in every block
    sizes = [touched(item.spec, item.dims, arg, place.nbytes) // item.spec.dtype(arg).host.itemsize
             for place, arg in zip(item.places, item.spec.kernel.args, strict=True)]
    return 0, _PER_ELEMENT.get(item.name, 2) * max(sizes)


def floor_of(item: Item, moved: int, tensor: int, other: int) -> tuple[str, float]:
    """What bounds a launch, and the seconds that it takes at least."""
    used = min(1, item.groups / MULTIPROCESSORS)  # a block stays on one multiprocessor
    speed = used * (INTEGERS if item.name == "embedding_order" else CORES)
    times = {"memory": moved / BANDWIDTH, "tensor cores": tensor / TENSOR_CORES, "cores": other / speed}
    bound = max(times, key=lambda name: times[name])
    return bound, times[bound]


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
        bound, seconds = floor_of(item, moved, tensor, other)
        self.launches += 1
        self.groups = max(self.groups, item.groups)
        self.bytes, self.tensor, self.other = self.bytes + moved, self.tensor + tensor, self.other + other
        self.floor += seconds
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
    return compiled(spec, device)[:2]


def compiled(spec: Spec, device: DeviceInfo) -> tuple[int, int, str]:
    """The same, and the unit's PTX."""
    source, compiler = inline_headers(cuda_source(spec, device)), nvrtc()
    if compiler is None:
        raise SystemExit("NVRTC's wheels are not installed: pip install -e '.[nvrtc]'")
    arch = device.arch
    works, log, ptx = compile_unit(source, (*compile_options(target_of(arch, (arch,)), compiler[1]),
                                            rounding(spec), "--ptxas-options=-v"))
    used = _USED.search(log)
    if not works or used is None:
        raise SystemExit(f"{spec.stem} does not compile: {log}")
    return int(used[1]), int(used[2] or 0) + dynamic_shared(source), ptx.decode()


def blocks_of(registers: int, shared: int, threads: int) -> int:
    """Blocks that a multiprocessor holds at a time. Registers are given to warps by 256, shared memory by 128 bytes."""
    warps = math.ceil(threads / 32)
    by_registers = REGISTERS // (math.ceil(registers * 32 / 256) * 256) // warps
    by_shared = SHARED // (math.ceil(shared / 128) * 128 + SHARED_SPENT)
    return min(by_registers, by_shared, WARPS // warps, BLOCKS)
