"""Every CUDA kernel compiles for real GPUs, without one: NVRTC needs neither a device nor a driver.

What is compiled are the units that the parity suite's cases lead to; of those that differ in sizes alone, one. A
warning is a failure, and so is a register spill: it is a slow kernel that works.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import math
import re
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dualml import dtypes
from dualml.backends.base import Backend, Binding, Buffer
from dualml.backends.nvrtc import compile_options, dynamic_shared, inline_headers, target_of
from dualml.backends.sources import cuda_source
from dualml.dtypes import as_dtype
from dualml.errors import BackendError
from dualml.kernel import DeviceInfo, Spec
from dualml.ops import load_all
from dualml.ops.base import OPS, Case
from tests.parity.modes import REQUIRED
from tests.parity.outcomes import cases_of, kernel_cases, of_16_bits, run_kernel, run_op

load_all()
ARCHES = (80, 90)
MAX_DYNAMIC_SHARED = {80: 163 << 10, 90: 227 << 10}  # CUDA programming guide, table of technical specifications
_UNUSED_ALLOWED = "--diag-suppress=177"  # a template may name more than each of its expressions uses
_FUNCTION = re.compile(r"Function properties for (\w+)\n.*?(\d+) bytes spill stores, (\d+) bytes spill loads")


class Recorder(Backend):
    """A CUDA device that only notes what it would have to compile."""

    dtypes = frozenset(dtypes.ALL) - {dtypes.float64}

    def __init__(self, arch: int) -> None:
        self.name = f"recorder_{arch}"
        self.device = DeviceInfo("cuda", self.name, subgroup_size=32, arch=arch)
        self.specs: list[Spec] = []

    def alloc(self, nbytes: int) -> Buffer:
        return Buffer(self, None, nbytes)

    def free(self, handle: Any, nbytes: int) -> None: ...

    def write(self, buffer: Buffer, offset: int, data: np.ndarray) -> None: ...

    def read(self, buffer: Buffer, offset: int, dtype: np.dtype, count: int) -> np.ndarray:
        return np.zeros(count, dtype)

    def copy(self, source: Buffer, source_offset: int, target: Buffer, target_offset: int, nbytes: int) -> None: ...

    def build(self, spec: Spec) -> Spec:
        return spec

    def launch(self, program: Any, bindings: Sequence[Binding], params: bytes, groups: int) -> None:
        self.specs.append(program)

    def synchronize(self) -> None: ...


# ---- NVRTC of NVIDIA's wheels -------------------------------------------------------------------------------------

@functools.cache
def nvrtc() -> tuple[ctypes.CDLL, list[Path]] | None:
    """The library and the folder of CUDA's headers, or None where the wheels of the extra `nvrtc` are not installed."""
    package = importlib.util.find_spec("nvidia")
    for place in map(Path, (package.submodule_search_locations or ()) if package else ()):
        libraries, headers = sorted(place.glob("*/lib/libnvrtc.so.*")), sorted(place.glob("*/include/cuda_bf16.h"))
        if libraries and headers:
            for built_in in place.glob("*/lib/libnvrtc-builtins.so.*"):
                ctypes.CDLL(str(built_in))  # which NVRTC 13.0 looks for by its name alone
            return ctypes.CDLL(str(libraries[-1])), [headers[-1].parent]
    return None


def compile_unit(source: str, options: Sequence[str]) -> tuple[bool, str, bytes]:
    """Whether a unit compiles, what NVRTC says, and the cubin."""
    found = nvrtc()
    assert found
    library = found[0]
    program = ctypes.c_void_p()
    library.nvrtcCreateProgram(ctypes.byref(program), source.encode(), b"unit.cu", 0, None, None)
    flags = (ctypes.c_char_p * len(options))(*(o.encode() for o in options))
    failed = library.nvrtcCompileProgram(program, len(options), flags)

    def fetch(what: str) -> bytes:
        size = ctypes.c_size_t()
        getattr(library, f"nvrtcGet{what}Size")(program, ctypes.byref(size))
        text = ctypes.create_string_buffer(size.value)
        getattr(library, f"nvrtcGet{what}")(program, text)
        return text.raw[:size.value]

    log, image = fetch("ProgramLog").decode().strip("\0"), b"" if failed else fetch("CUBIN")
    library.nvrtcDestroyProgram(ctypes.byref(program))
    return not failed, log, image


@functools.cache
def problems_of(source: str, name: str, arch: int) -> list[str]:
    """What is wrong with a unit on an architecture."""
    found = nvrtc()
    assert found
    options = (*compile_options(target_of(arch, (arch,)), found[1]), "--ptxas-options=-v", _UNUSED_ALLOWED)
    works, log, _ = compile_unit(source, options)
    if not works or "warning" in log:
        return [log]
    spills = [f"{kernel} spills {stores} and {loads} bytes" for kernel, stores, loads in _FUNCTION.findall(log)
              if (stores, loads) != ("0", "0")]
    if name not in [kernel for kernel, *_ in _FUNCTION.findall(log)]:
        spills.append(f"no register report for {name} in: {log}")
    if dynamic_shared(source) > MAX_DYNAMIC_SHARED[arch]:
        spills.append(f"asks for {dynamic_shared(source)} bytes of dynamic shared memory")
    return spills


# ---- tests --------------------------------------------------------------------------------------------------------

@pytest.fixture(scope="module", autouse=True)
def compiler() -> None:
    if nvrtc() is None:
        reason = "NVRTC's wheels are not installed: pip install -e '.[nvrtc]'"
        if "nvrtc" in REQUIRED:
            pytest.fail(reason)
        pytest.skip(reason)


def representatives(specs: Sequence[Spec], arch: int) -> list[Spec]:
    """Of specs that differ in sizes alone, the one with most to do. On the first architecture also one per dtype."""
    chosen: dict[Any, tuple[Any, Spec]] = {}
    for spec in specs:
        scalars = dict(spec.kernel.scalars)
        flags = tuple((n, v) for n, v in spec.constants if n in scalars and v in (0, 1))
        key = (spec.kernel, spec.variant, flags, spec.types if arch == ARCHES[0] else ())
        size = (len(spec.vectors), math.prod(max(1, v) for n, v in spec.constants if n not in scalars))
        if key not in chosen or chosen[key][0] < size:
            chosen[key] = (size, spec)
    return [spec for _, spec in chosen.values()]


def check(device: Recorder) -> None:
    chosen = representatives(device.specs, device.device.arch)
    units = {inline_headers(cuda_source(spec, device.device)): spec for spec in chosen}
    wrong = [f"{spec.stem} {dict(spec.types)} {dict(spec.constants)}: {'; '.join(found)}"
             for source, spec in units.items() if (found := problems_of(source, spec.kernel.name, device.device.arch))]
    if wrong:
        pytest.fail("\n".join(wrong), pytrace=False)


@pytest.mark.parametrize("arch", ARCHES)
@pytest.mark.parametrize("name", sorted(OPS))
def test_op(name: str, arch: int) -> None:
    device = Recorder(arch)
    for dtype in ("float32", "float16", "bfloat16"):
        cases = cases_of(name)
        taking = [i for i, c in enumerate(cases) if dtype in c.dtypes]
        for index in taking if dtype == "float32" else of_16_bits(cases, dtype):
            run_op(OPS[name], cases[index], as_dtype(dtype), device)
    check(device)


@pytest.mark.parametrize("arch", ARCHES)
@pytest.mark.parametrize("name", sorted(kernel_cases()))
def test_kernel(name: str, arch: int) -> None:
    device = Recorder(arch)
    for dtype in ("float32", "float16", "bfloat16"):
        for case in kernel_cases()[name]:
            run_kernel(case, as_dtype(dtype), device)
    check(device)


@pytest.mark.parametrize("arch", ARCHES)
@pytest.mark.parametrize("size", [32, 64, 96, 128])
def test_each_head_size_on_tensor_cores(size: int, arch: int) -> None:
    """Registers are scarce there, and a smaller head need not need fewer."""
    device = Recorder(arch)
    run_op(OPS["attention_qkv"], Case("case", (np.zeros((1, 2, 3 * size)),), {"heads": 1}), dtypes.bfloat16, device)
    assert [s.stem for s in device.specs] == ["attention_forward.mma", "attention_backward_delta",
                                              "attention_backward.mma"]
    check(device)


@pytest.mark.parametrize("arch", ARCHES)
@pytest.mark.parametrize(("rows", "columns"), [(136, 144), (56, 64), (16, 136)])
def test_each_tile_of_products_on_tensor_cores(rows: int, columns: int, arch: int) -> None:
    """And each way that the operands may be stored."""
    device = Recorder(arch)
    for ta, tb in product((False, True), repeat=2):
        a, b = (64, rows) if ta else (rows, 64), (columns, 64) if tb else (64, columns)
        run_op(OPS["matmul"], Case("case", (np.zeros(a), np.zeros(b)), {"ta": ta, "tb": tb}), dtypes.float16, device,
               only_input=2)
    assert [s.stem for s in device.specs] == ["matmul.mma"] * 4
    check(device)


def test_a_spill_and_a_warning_are_noticed() -> None:
    many = "\n".join(f"float v{i} = x[{i} * 512];" for i in range(200))
    spill = (f'extern "C" __global__ void __launch_bounds__(1024) k(volatile float* x) {{ {many}\n'
             f'__syncthreads(); {"".join(f"x[{i}] = v{i};" for i in range(200))} }}')
    assert "spills" in problems_of(spill, "k", 80)[0]
    assert "warning" in problems_of('extern "C" __global__ void k(float* x) { int i; x[0] = float(i); }', "k", 80)[0]
    assert "error" in problems_of('extern "C" __global__ void k(float* x) { x = y; }', "k", 80)[0]
    assert not problems_of('extern "C" __global__ void k(float* x) { x[0] = 1.f; }', "k", 90)


def test_targets() -> None:
    assert target_of(80, (75, 80, 90)) == "sm_80"
    assert target_of(90, (75, 80, 90)) == "sm_90a"
    assert target_of(89, (75, 80, 90)) == "compute_80"
    with pytest.raises(BackendError, match=r"compute capability 5\.2\. Install an older"):
        target_of(52, (75, 80))


def test_headers_are_inlined_once() -> None:
    text = inline_headers('#include "lib/reduce.cuh"\n#line 1 "cuda/x.cu"\n#include "lib/reduce.cuh"\nKERNEL {}')
    assert text.count("float block_sum(") == 1
    assert '#include "lib/' not in text
    assert text.endswith('#line 1 "cuda/x.cu"\n\nKERNEL {}')
