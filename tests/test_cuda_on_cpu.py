"""The CUDA test device itself: it must notice each kind of broken kernel, and compute what CUDA does."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import Any
from unittest import mock

import numpy as np
import pytest

import tests.cuda_on_cpu  # noqa: F401  (registers the backend)
from dualml import dtypes, runtime
from dualml.array import empty, from_numpy, run
from dualml.errors import BackendError, KernelError
from dualml.kernel import make_kernel
from tests.cuda_on_cpu import backend as device, compiler

ALL_ORDERS = (0, 1, 2, 3, 4, 5, 6, 7)
ONE_BLOCK = {"block": 64, "groups": "1"}


def launch(body: str, *inputs: Any, signature: str = "x[N] -> out[N]", groups: str = "cdiv(N, BLOCK)", block: int = 64,
           orders: tuple[int, ...] = (0,), types: dict[str, dtypes.DType] | None = None) -> np.ndarray:
    """Runs a kernel of this body on the device and returns its output, or what it updates."""
    backend: Any = runtime.get("cuda_on_cpu")
    kernel = make_kernel(len, signature, name="probe", groups=groups, block=block, texts={"cu": body})
    arrays = [from_numpy(np.asarray(x), backend=backend) for x in inputs]
    with mock.patch.object(backend, "orders", orders):
        out = run(kernel, *arrays, types=types, backend=backend)
    return (arrays[0] if out is None else out).numpy()


def floats(n: int) -> np.ndarray:
    return np.random.default_rng(n).standard_normal(n).astype(np.float32)


# ---- memory -------------------------------------------------------------------------------------------------------

def test_what_no_thread_writes_is_nan() -> None:
    out = launch("KERNEL { if (threadIdx.x != 5) out[threadIdx.x] = x[threadIdx.x]; }", floats(64))
    assert np.flatnonzero(np.isnan(out)).tolist() == [5]


@pytest.mark.parametrize(("index", "message"), [("p.N", "wrote after out"), ("-1", "wrote before out"),
                                                ("p.N + 4", "illegal memory access .* by thread 3 of block 0"),
                                                ("-5000", "illegal memory access")])
def test_write_out_of_bounds(index: str, message: str) -> None:
    with pytest.raises(KernelError, match=message):
        launch(f"KERNEL {{ if (threadIdx.x == 3) out[int({index})] = 1.f; }}", floats(61))


def test_read_out_of_bounds() -> None:
    body = "KERNEL { for (u32 i = threadIdx.x; i < p.N; i += BLOCK) out[i] = x[i + 1]; }"
    assert np.isnan(launch(body, floats(61))[-1])
    with pytest.raises(KernelError, match="illegal memory access"):
        launch(body, floats(64))


def test_device_works_after_a_fault() -> None:
    for _ in range(3):
        with pytest.raises(KernelError, match="illegal memory access"):
            launch("KERNEL { __syncthreads(); if (threadIdx.x == 9) out[1 << 16] = 1.f; __syncthreads(); }", floats(64))
        x = floats(64)
        assert np.array_equal(launch("KERNEL { __syncthreads(); out[threadIdx.x] = x[threadIdx.x]; }", x), x)


def test_shared_memory_starts_as_nan_in_every_block() -> None:
    out = launch("KERNEL { __shared__ float s[64]; const u32 t = threadIdx.x, i = blockIdx.x * BLOCK + t;"
                 "out[i] = s[t]; s[t] = 1.f; }", floats(128))
    assert np.isnan(out).all()


def test_too_much_shared_memory() -> None:
    with pytest.raises(KernelError, match="48 KiB of static shared memory"):
        launch("KERNEL { __shared__ float s[12289]; s[threadIdx.x] = 0.f; out[threadIdx.x] = s[0]; }", floats(64))


def test_dynamic_shared_memory_is_bounded_and_nan() -> None:
    body = ("DYNAMIC_SHARED(65552)\nKERNEL { float* s = (float*)dynamic_shared; const u32 t = threadIdx.x;"
            "out[t] = s[t]; s[%s] = 1.f; }")
    assert np.isnan(launch(body % "t * 256 + 68", floats(64))).all()
    with pytest.raises(KernelError, match="illegal memory access"):
        launch(body % "t * 256 + 388", floats(64))


# ---- barriers and warps -------------------------------------------------------------------------------------------

REVERSE = ("KERNEL { __shared__ float s[BLOCK]; const u32 t = threadIdx.x; s[t] = x[t]; %s"
           "out[t] = s[BLOCK - 1 - t]; }")


def test_orders_agree_where_the_barrier_is_there() -> None:
    x = floats(64)
    assert np.array_equal(launch(REVERSE % "__syncthreads();", x, orders=ALL_ORDERS, **ONE_BLOCK), x[::-1])


def test_missing_barrier() -> None:
    assert np.isnan(launch(REVERSE % "", floats(64), **ONE_BLOCK)).any()
    kept = REVERSE.replace("s[t] = x[t];", "s[t] = 0.f; __syncthreads(); s[t] = x[t];")  # hides it from the NaN
    with pytest.raises(KernelError, match="out has other bits under order 1 than under 0: a barrier is missing"):
        launch(kept % "", floats(64), orders=(0, 1), **ONE_BLOCK)


def test_missing_warp_barrier() -> None:
    body = ("KERNEL { __shared__ float s[BLOCK]; const u32 t = threadIdx.x; s[t] = 0.f; __syncthreads();"
            "s[t] = x[t]; %s out[t] = s[t ^ 1]; }")
    assert launch(body % "__syncwarp();", floats(64), orders=ALL_ORDERS, **ONE_BLOCK).all()
    with pytest.raises(KernelError, match="other bits"):
        launch(body % "", floats(64), orders=ALL_ORDERS, **ONE_BLOCK)


def test_blocks_that_depend_on_each_other() -> None:
    body = "KERNEL { const u32 i = blockIdx.x * BLOCK + threadIdx.x; x[i] = i < BLOCK ? 1.f : x[i - BLOCK] + 1.f; }"
    with pytest.raises(KernelError, match="x has other bits under order 1"):
        launch(body, floats(256), signature="&x[N]", orders=(0, 1))


def test_updates_start_from_the_same_memory_in_each_order() -> None:
    x = floats(64)
    assert np.array_equal(launch("KERNEL { x[threadIdx.x] *= 2.f; }", x, signature="&x[N]", orders=ALL_ORDERS), 2 * x)


@pytest.mark.parametrize(("body", "message"), [
    ("if (t < 32) __syncthreads();\n else __syncthreads();", r"divergent __syncthreads: thread 0 .*:1, thread 63 .*:2"),
    ("if (t < 5) return; float v = __shfl_xor_sync(31u, 1.f, 1); out[t] = v;", "not in its own mask"),
    ("if (t % 2) __syncwarp(); else __shfl_sync(ALL_LANES, 1, 0);", "in different collectives"),
    ("if (t < 16) __shfl_xor_sync(ALL_LANES, 1.f, 1); else __syncthreads();", "waits for lanes that never come"),
    ("if (t == 7) __trap();", "__trap by thread 7 of block 0 at cuda/probe.cu:1"),
])
def test_threads_that_do_not_meet(body: str, message: str) -> None:
    with pytest.raises(KernelError, match=message):
        launch(f"KERNEL {{ const u32 t = threadIdx.x; {body}\n}}", floats(64), **ONE_BLOCK)


def test_warp_operations() -> None:
    x = floats(64)
    w = x.reshape(2, 32)
    lane = np.arange(32)
    for call, expected in [
        ("__shfl_sync(ALL_LANES, x[t], 3)", w[:, [3] * 32]),
        ("__shfl_sync(ALL_LANES, x[t], 3, 8)", w[:, lane // 8 * 8 + 3]),
        ("__shfl_xor_sync(ALL_LANES, x[t], 5)", w[:, lane ^ 5]),
        ("__shfl_up_sync(ALL_LANES, x[t], 2)", w[:, np.where(lane < 2, lane, lane - 2)]),
        ("__shfl_down_sync(ALL_LANES, x[t], 2, 16)", w[:, np.where(lane % 16 > 13, lane, lane + 2)]),
        ("float(__popc(__ballot_sync(ALL_LANES, x[t] > 0.f)))", np.repeat((w > 0).sum(1), 32)),
        ("float(__syncthreads_count(x[t] > 0.f))", np.full(64, (x > 0).sum())),
        ("float(__any_sync(ALL_LANES, t == 40) * 2 + __all_sync(ALL_LANES, t < 32))", np.repeat([1, 2], 32)),
        ("(t % 32 < 4 ? 0.f : __shfl_sync(0xfffffff0u, x[t], 9))", np.where(lane < 4, 0, w[:, [9] * 32])),
    ]:
        out = launch(f"KERNEL {{ const u32 t = threadIdx.x; out[t] = {call}; }}", x, orders=(0, 1, 5), **ONE_BLOCK)
        assert np.array_equal(out, np.ravel(expected).astype(np.float32)), call


def test_integer_atomics() -> None:
    x = np.arange(1000, dtype=np.int32)
    body = "KERNEL { const u32 i = blockIdx.x * BLOCK + threadIdx.x; if (i < p.N) atomicAdd(&out[x[i] % 7], 1); }"
    counts = launch(body, x, signature="x:i32[N] -> out:i32[7]", orders=(0, 1))
    assert np.array_equal(counts, np.bincount(x % 7) - 1)  # from the -1 of fresh memory


# ---- arithmetic ---------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("dtype", [dtypes.float16, dtypes.bfloat16])
def test_16_bit_floats_round_like_numpy(dtype: dtypes.DType) -> None:
    every = np.arange(65536, dtype=np.uint16).view(dtype.host)
    with np.errstate(all="ignore"):
        wide = every.astype(np.float32)
        halfway = (wide + np.roll(wide, 1)) / 2
        between = np.concatenate([wide, np.nextafter(wide, np.float32(np.inf)), halfway, floats(999)])
    out = launch("KERNEL { const u32 i = blockIdx.x * BLOCK + threadIdx.x; if (i < p.N) out[i] = F(x[i]); }", between,
                 signature="x:f32[N] -> out[N]", types={"F": dtype})
    with np.errstate(all="ignore"):
        expected = between.astype(dtype.host)
    ok = np.isnan(between) | (out.view(np.uint16) == expected.view(np.uint16))
    assert ok.all()
    assert np.isnan(out[np.isnan(between)].astype(np.float32)).all()


def test_integer_intrinsics() -> None:
    x = np.random.default_rng(0).integers(0, 1 << 32, 64, np.uint32)
    y = np.roll(x, 1)
    for call, expected in [
        ("__umulhi(a, b)", (x.astype(np.uint64) * y >> 32)),
        ("__brev(a)", [int(f"{v:032b}"[::-1], 2) for v in x]),
        ("u32(__clz(a >> 5))", [32 - int(v >> 5).bit_length() for v in x]),
        ("__funnelshift_l(a, b, 13)", (y.astype(np.uint64) << 32 | x) << 13 >> 32),
        ("__byte_perm(a, b, 0x5410)", (x & 0xffff) | (y & 0xffff) << 16),
        ("__float_as_uint(__uint_as_float(a))", x),
    ]:
        out = launch(f"KERNEL {{ const u32 t = threadIdx.x, a = x[t], b = y[t]; out[t] = {call}; }}", x, y,
                     signature="x:u32[N] y:u32[N] -> out:u32[N]")
        assert out.tolist() == np.asarray(expected).tolist(), call


# ---- compiling ----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize(("body", "message"), [
    ("out[0] = x[0] * 0.5;", r"double-promotion"),
    ("out[0] = y[0];", r"cuda/probe.cu:1:.*'y' was not declared"),
    ("x[0] = 1.f;", "read-only"),
])
def test_sources_that_are_refused(body: str, message: str) -> None:
    with pytest.raises(KernelError, match=r"does not compile for the CPU test device:[\s\S]*" + message):
        launch(f"KERNEL {{ {body} }}", floats(64))


def test_a_kernel_is_compiled_once() -> None:
    body = "KERNEL { out[threadIdx.x] = x[threadIdx.x] + 1.f; }"
    launch(body, floats(64))
    with mock.patch.object(subprocess, "run", side_effect=AssertionError("compiled again")):
        launch(body, floats(64))


def test_settings() -> None:
    assert device.settings("") == ("", (0, 1))
    assert device.settings("tsan, reversed,shuffled=7") == ("tsan", (1, 9))
    with pytest.raises(BackendError, match=r"must list asan, .* got 'backward'"):
        device.settings("backward")
    with mock.patch.dict("os.environ", DUALML_CUDA_ON_CPU="asan"), \
            pytest.raises(BackendError, match=r"must be loaded before"):
        device.CudaOnCpuBackend()


def test_buffers_are_given_back() -> None:
    backend = runtime.get("cuda_on_cpu")
    before = backend.memory()["in_use"]
    made = [empty((n, 1000), backend=backend) for n in range(50)]
    assert backend.memory()["in_use"] - before == sum(a.nbytes for a in made)
    del made
    assert backend.memory()["in_use"] == before


# ---- sanitizers, in a process of their own ------------------------------------------------------------------------

RIGHT = REVERSE % "__syncthreads();"
SANITIZED = {  # asan knows the lines of libraries that were loaded before its first report: that one comes first
    "asan": [("KERNEL { __shared__ float s[60]; float* q = s;\n q[threadIdx.x] = x[0]; out[threadIdx.x] = s[1]; }",
              r"global-buffer-overflow[\s\S]*cuda/probe.cu:2"),
             ("KERNEL { __shared__ float s[2][60];\n s[0][threadIdx.x] = x[0]; out[threadIdx.x] = s[1][1]; }",
              r"cuda/probe.cu:2.* index 60 out of bounds"),
             ("KERNEL { *(float2*)&out[1] = make_float2(1.f, 1.f); }", r"cuda/probe.cu:1.*misaligned address"),
             (RIGHT, "^nothing$")],
    "tsan": [(REVERSE.replace("%s", "\n"), r"data race[\s\S]*cuda/probe.cu:2"), (RIGHT, "^nothing$")],
}
SCRIPT = """
import sys
from tests.test_cuda_on_cpu import *
for body, _ in SANITIZED[sys.argv[1]]:
    try:
        launch(body, floats(64), **ONE_BLOCK)
        print("nothing", end="<end>")
    except KernelError as error:
        print(error, end="<end>")
"""


@pytest.mark.parametrize("sanitizer", SANITIZED)
def test_sanitizers(sanitizer: str) -> None:
    command = [sys.executable, "-m", "tests.cuda_on_cpu", sanitizer, "-c", SCRIPT, sanitizer]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    reports = done.stdout.split("<end>")[:-1]
    assert len(reports) == len(SANITIZED[sanitizer]), done.stdout + done.stderr
    for report, (body, message) in zip(reports, SANITIZED[sanitizer], strict=True):
        assert re.search(message, report), f"{body}\n{report}"


def test_g_plus_plus_is_named_where_it_is_missing() -> None:
    with mock.patch.object(subprocess, "run", side_effect=FileNotFoundError("g++")), \
            pytest.raises(BackendError, match=r"g\+\+ does not answer"):
        compiler.compiler.__wrapped__()
