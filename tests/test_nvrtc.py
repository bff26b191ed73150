"""Every CUDA kernel compiles for real GPUs, without one: NVRTC needs neither a device nor a driver.

What is compiled are the units that the parity suite's cases lead to; of those that differ in sizes alone, one. A
warning is a failure, and so is a register spill: it is a slow kernel that works.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np
import pytest

import dualml as dm
from dualml import amp, dtypes, optim, runtime
from dualml.backends.base import Backend, Binding, Buffer
from dualml.backends.nvrtc import compile_options, dynamic_shared, inline_headers, rounding, target_of
from dualml.backends.sources import cuda_source, folder
from dualml.dtypes import as_dtype
from dualml.errors import BackendError
from dualml.kernel import DeviceInfo, Spec
from dualml.models import GPT
from dualml.ops import load_all
from dualml.ops.base import OPS, Case
from dualml.ops.matmul_epilogues import matmul_gelu, matmul_gelu_backward, matmul_sums
from tests.parity.modes import REQUIRED
from tests.parity.outcomes import cases_of, kernel_cases, of_16_bits, run_kernel, run_op
from tests.real_nvrtc import RealNvrtc, nvrtc

load_all()
ARCHES = (80, 90)
MAX_DYNAMIC_SHARED = {80: 163 << 10, 90: 227 << 10}  # CUDA programming guide, table of technical specifications
_UNUSED_ALLOWED = "--diag-suppress=177"  # a template may name more than each of its expressions uses
_FUNCTION = re.compile(r"Function properties for (\w+)\n.*?(\d+) bytes stack frame, (\d+) bytes spill stores, "
                       r"(\d+) bytes spill loads")
# In PTX an operation that names its rounding is as it stands; ptxas may make one of a product and a sum that do not.
_LOOSE = re.compile(r"\b(?:add|sub|mul)\.(?:ftz\.|sat\.)*f(?:32|16x?2?)\b")
_ACCESS = re.compile(r"\b(ld|st)\.global\S*?(?:\.v(\d))?\.[a-z](\d+)\s")


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

def compile_unit(source: str, options: Sequence[str]) -> tuple[bool, str, bytes]:
    """Whether a unit compiles, what NVRTC says, and its PTX."""
    library = RealNvrtc()
    program = library.createProgram(source, "unit.cu")
    try:
        library.compileProgram(program, options)
        return True, library.getProgramLog(program), library.getPTX(program)
    except RealNvrtc.NVRTCError:
        return False, library.getProgramLog(program), b""
    finally:
        library.destroyProgram(program)


@functools.cache
def problems_of(source: str, name: str, arch: int, fmad: str = "--fmad=false") -> list[str]:
    """What is wrong with a unit on an architecture."""
    options = (*compile_options(target_of(arch, (arch,)), RealNvrtc().headers), fmad, "--ptxas-options=-v",
               _UNUSED_ALLOWED)
    works, log, ptx = compile_unit(source, options)
    if not works or "warning" in log:
        return [log]
    reports = _FUNCTION.findall(log)
    found = [f"{kernel} spills {stores} and {loads} bytes" for kernel, _, stores, loads in reports
             if (stores, loads) != ("0", "0")]
    found += [f"{kernel} has {frame} bytes of arrays in local memory" for kernel, frame, *_ in reports if int(frame)]
    if name not in [kernel for kernel, *_ in reports]:
        found.append(f"no register report for {name} in: {log}")
    if dynamic_shared(source) > MAX_DYNAMIC_SHARED[arch]:
        found.append(f"asks for {dynamic_shared(source)} bytes of dynamic shared memory")
    if fmad == "--fmad=false" and (loose := _LOOSE.search(ptx.decode())):
        found.append(f"{loose[0]} may be contracted")
    return found


# ---- tests --------------------------------------------------------------------------------------------------------

@pytest.fixture(scope="module", autouse=True)
def compiler() -> None:
    if nvrtc() is None:
        reason = "NVRTC's wheels are not installed: pip install -e '.[nvrtc]'"
        if "nvrtc" in REQUIRED:
            pytest.fail(reason)
        pytest.skip(reason)


def representatives(specs: Sequence[Spec], arch: int) -> list[Spec]:
    """Of specs that differ in sizes alone, the one with most to do. One per dtype on the first architecture, and
    everywhere where registers are scarce."""
    chosen: dict[Any, tuple[Any, Spec]] = {}
    for spec in specs:
        scalars = dict(spec.kernel.scalars)
        flags = tuple((n, v) for n, v in spec.constants if n in scalars and v in (0, 1))
        each = arch == ARCHES[0] or spec.stem.endswith(".mma") or "norm" in spec.stem
        key = (spec.kernel, spec.variant, flags, spec.types if each else ())
        size = (len(spec.vectors), math.prod(max(1, v) for n, v in spec.constants if n not in scalars))
        if key not in chosen or chosen[key][0] < size:
            chosen[key] = (size, spec)
    return [spec for _, spec in chosen.values()]


def check(device: Recorder) -> None:
    chosen = representatives(device.specs, device.device.arch)
    arch, units = device.device.arch, {inline_headers(cuda_source(spec, device.device)): spec for spec in chosen}
    wrong = [f"{spec.stem} {dict(spec.types)} {dict(spec.constants)}: {'; '.join(found)}"
             for source, spec in units.items()
             if (found := problems_of(source, spec.kernel.name, arch, rounding(spec)))]
    if wrong:
        pytest.fail("\n".join(wrong), pytrace=False)


def on_one_worker(names: Sequence[str]) -> list[Any]:
    """(name, arch) of all; those that share large units stay together, so that each is compiled once."""
    def params(name: str, arch: int) -> Any:
        shared = next((kind for kind in ("attention", "matmul", "linear") if kind in name), "")
        group = f"nvrtc {shared.replace('linear', 'matmul')} {arch}"
        return pytest.param(name, arch, marks=pytest.mark.xdist_group(group) if shared else ())
    return [params(name, arch) for name in sorted(names) for arch in ARCHES]


@pytest.mark.parametrize(("name", "arch"), on_one_worker([*OPS]))
def test_op(name: str, arch: int) -> None:
    device = Recorder(arch)
    for dtype in ("float32", "float16", "bfloat16"):
        cases = cases_of(name)
        taking = [i for i, c in enumerate(cases) if dtype in c.dtypes]
        for index in taking if dtype == "float32" else of_16_bits(cases, dtype):
            run_op(OPS[name], cases[index], as_dtype(dtype), device)
    check(device)


@pytest.mark.parametrize(("name", "arch"), on_one_worker([*kernel_cases()]))
def test_kernel(name: str, arch: int) -> None:
    device = Recorder(arch)
    for dtype in ("float32", "float16", "bfloat16"):
        for case in kernel_cases()[name]:
            run_kernel(case, as_dtype(dtype), device)
    check(device)


@pytest.mark.parametrize("arch", ARCHES)
@pytest.mark.parametrize("size", [32, 64, 96, 128])
@pytest.mark.parametrize(("op", "shape"), [("attention_qkv", (1, 2)), ("attention_varlen_qkv", (2,))])
def test_each_head_size_on_tensor_cores(op: str, shape: tuple[int, ...], size: int, arch: int) -> None:
    """Registers are scarce there, and a smaller head need not need fewer."""
    device = Recorder(arch)
    starts = (np.array([0, 1, 2], np.int32),) if op == "attention_varlen_qkv" else ()
    run_op(OPS[op], Case("case", (np.zeros((*shape, 3 * size)), *starts), {"heads": 1}), dtypes.bfloat16, device)
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


@pytest.mark.parametrize("arch", ARCHES)
@pytest.mark.parametrize(("rows", "columns"), [(136, 144), (56, 64), (16, 136)])
def test_each_tile_with_each_epilogue(rows: int, columns: int, arch: int) -> None:
    """Stored as a layer's passes have them: what is done besides needs registers too."""
    device, a, b = Recorder(arch), np.zeros((rows, 64)), np.zeros((64, columns))
    sizes = {"M": rows, "N": columns, "K": 64}
    for way in (0, 1):
        for case in ((matmul_gelu, (a, b.T, np.zeros(columns)), {**sizes, "ta": 0, "tb": 1, "approximate": way}),
                     (matmul_gelu_backward, (a, b, a @ b), {**sizes, "ta": 0, "tb": 0, "approximate": way})):
            run_kernel(case, dtypes.bfloat16, device)
    run_kernel((matmul_sums, (a.T, b), {**sizes, "ta": 1, "tb": 0}), dtypes.bfloat16, device)
    assert [s.stem for s in device.specs] == ["matmul.mma"] * 5
    check(device)


class H200(Recorder):
    """Makes products by a library, as the cuda backend does."""

    own_products = False

    def __init__(self) -> None:
        super().__init__(90)
        self.name = "recorded_h200"


@pytest.fixture
def h200(monkeypatch: pytest.MonkeyPatch) -> H200:
    """Can be had by its name during one test: it computes nothing, which `dualml devices` would tell."""
    made = H200()
    monkeypatch.setitem(runtime._FACTORIES, made.name, (__name__, "H200"))
    monkeypatch.setitem(runtime._open, made.name, made)
    return made


@pytest.mark.parametrize("vocabulary", [4096, 50257])
def test_sizes_of_the_12m_model(h200: H200, vocabulary: int) -> None:
    """Sizes that are constants of a source decide what is unrolled and kept in registers; cases have smaller ones. One
    layer has the kernels of all, eager and captured."""
    with runtime.use_backend(h200.name):
        model = GPT.from_preset("gpt-12m", vocabulary, dropout=0.1, layers=1)
        optimizer = optim.AdamW(model.parameters())
        tokens = dm.tensor(np.zeros((2, 256), np.int32))

        @dm.capture
        def step() -> Any:
            with amp.autocast("bfloat16"):
                loss = model(tokens, tokens)[1]
            loss.backward()
            optimizer.step(optim.grad_norm(model.parameters()))
            optimizer.zero_grad()
            return loss

        for _ in range(3):
            step()
    sizes = {384, 3 * 384, 4 * 384, vocabulary}
    h200.specs[:] = [s for s in h200.specs if sizes & {v for _, v in s.constants}]
    assert {"dropout_layer_norm_forward", "layer_norm_dropout_backward"} <= {s.kernel.name for s in h200.specs}
    check(h200)


def fused(device: H200, *shapes: tuple[int, ...]) -> Spec:
    """The kernel that a captured x * y + z becomes."""
    with runtime.use_backend(device.name), dm.no_grad():
        step = dm.capture(lambda x, y, z: x * y + z)
        for _ in range(3):
            step(*(np.zeros(shape, np.float32) for shape in shapes))
    found: Spec = device.specs[-1]
    assert found.kernel.source == "fused"
    return found


def compiled(spec: Spec, *options: str) -> str:
    source = inline_headers(cuda_source(spec, Recorder(90).device))
    works, log, ptx = compile_unit(source, (*compile_options("sm_90a", RealNvrtc().headers), *options))
    assert works, log
    return ptx.decode()


@pytest.mark.parametrize("shapes", [((8, 64),) * 3, ((8, 64), (64,), (8, 1))])
def test_a_fused_product_and_sum_round_twice(h200: H200, shapes: tuple[tuple[int, ...], ...]) -> None:
    """As the two launches do that it replaces. NVRTC, left alone, would round once."""
    spec = fused(h200, *shapes)
    assert rounding(spec) == "--fmad=false"
    ours, alone = compiled(spec, rounding(spec)), compiled(spec)
    assert "fma.rn.f32" not in ours
    assert not _LOOSE.search(ours)
    assert "mul.rn.f32" in ours
    assert "add.rn.f32" in ours
    assert "fma.rn.f32" in alone


def test_a_pair_of_products_rounds_as_the_two_do() -> None:
    """Every product there is contracted with its sum, in both kernels, so nothing is left to the compiler's choice."""
    device = Recorder(90)
    run_op(OPS["matmul"], Case("case", (np.zeros((70, 72)), np.zeros((72, 68)))), dtypes.float32, device)
    run_kernel(kernel_cases()["matmul_pair"][0], dtypes.float32, device)
    assert {s.kernel.name for s in device.specs} == {"matmul", "matmul_pair"}
    for spec in {s.kernel: s for s in device.specs}.values():
        assert rounding(spec) == "--fmad=true"
        text = compiled(spec, rounding(spec))
        assert "fma.rn.f32" in text
        assert not re.search(r"mul\.(rn\.)?f32", text)


ROWS_OF_16_BITS = {  # kernels that say `#define ROW` (lib/vec.cuh), and how many bytes their loads and stores move
    "attention_backward_delta": "ld16 st4",
    "bias_gelu_backward.wide": "ld16 st16", "bias_gelu_forward.wide": "ld16 st16",
    "cross_entropy_backward": "ld16 ld4 st16", "cross_entropy_forward": "ld16 ld2 ld4 st4",
    "cross_entropy_in_place": "ld16 ld2 ld4 st16 st4",
    "dropout_layer_norm_forward": "ld16 ld4 st16 st4", "layer_norm_dropout_backward": "ld16 ld4 st16",
    "layer_norm_backward": "ld16 ld4 st16", "layer_norm_forward": "ld16 st16 st4",
    "rms_norm_backward": "ld16 ld4 st16", "rms_norm_forward": "ld16 st16 st4"}


def test_rows_of_16_bits_move_16_bytes_at_a_time() -> None:
    """Where they divide by eight. Narrower are single numbers alone: labels, scales, statistics of a row."""
    device, width = Recorder(90), 384
    rows, row, labels = np.zeros((8, width)), np.zeros(width), np.zeros(8, np.int32)
    for name, inputs, options in (("add_layer_norm", (rows, rows, row, row), {}), ("bias_gelu", (rows, row), {}),
                                  ("add_rms_norm", (rows, rows, row), {}), ("cross_entropy", (rows, labels), {}),
                                  ("attention_qkv", (rows[None],), {"heads": 2})):
        run_op(OPS[name], Case("case", inputs, options), dtypes.bfloat16, device)
    for case in (case for name in ROWS_OF_16_BITS for case in kernel_cases().get(name, ())):
        if case[1][0].shape[-1] % 8 == 0:
            run_kernel(case, dtypes.bfloat16, device)
    found = {spec.stem: compiled(spec, rounding(spec)) for spec in device.specs if spec.stem in ROWS_OF_16_BITS}
    assert {stem: " ".join(sorted({f"{way}{int(count or 1) * int(bits) // 8}" for way, count, bits in
                                   _ACCESS.findall(text)})) for stem, text in found.items()} == ROWS_OF_16_BITS
    sources = {path.stem: path.read_text() for path in folder("cuda").glob("*.cu")}
    assert {name.removesuffix(".wide") for name in ROWS_OF_16_BITS} == {
        name for name, text in sources.items() if "#define ROW " in text or "lib/cross_entropy.cuh" in text}


def test_sums_over_rows_load_ahead() -> None:
    """Several rows are loaded before a branch asks whether there are more: else each load waits for the sum before."""
    device, rows = Recorder(90), np.zeros((4000, 384))
    run_op(OPS["sum"], Case("case", (rows,), {"dim": (0,)}), dtypes.bfloat16, device, only_input=1)
    for name in ("sum_jobs", "sum_partials"):
        run_kernel(kernel_cases()[name][0], dtypes.float32, device)
    most = {}
    for spec in device.specs:
        blocks = re.split(r"\bbra\b", compiled(spec, rounding(spec)))
        most[spec.kernel.name] = max(len(re.findall(r"ld\.global\S*\.v\d", block)) for block in blocks)
    assert most == {"sum_columns": 4, "sum_jobs": 4, "sum_partials": 8}


def test_a_spill_and_a_warning_are_noticed() -> None:
    many = "\n".join(f"float v{i} = x[{i} * 512];" for i in range(200))
    spill = (f'extern "C" __global__ void __launch_bounds__(1024) k(volatile float* x) {{ {many}\n'
             f'__syncthreads(); {"".join(f"x[{i}] = v{i};" for i in range(200))} }}')
    assert "spills" in problems_of(spill, "k", 80)[0]
    assert "warning" in problems_of('extern "C" __global__ void k(float* x) { int i; x[0] = float(i); }', "k", 80)[0]
    assert "error" in problems_of('extern "C" __global__ void k(float* x) { x = y; }', "k", 80)[0]
    assert not problems_of('extern "C" __global__ void k(float* x) { x[0] = 1.f; }', "k", 90)
    array = "float v[64]; for (int i = 0; i < 64; i++) v[int(x[i]) % 64] = x[i]; x[0] = v[int(x[65]) % 64];"
    assert "local memory" in problems_of(f'extern "C" __global__ void k(float* x) {{ {array} }}', "k", 90)[0]
    both = 'extern "C" __global__ void k(float* x) { x[0] = x[1] * x[2] + x[3]; x[4] = x[5] * x[6]; }'
    assert not problems_of(both, "k", 90)
    assert _LOOSE.search(compile_unit(both, compile_options("sm_90a", ()))[2].decode())


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
