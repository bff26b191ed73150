"""cuda/lib/mma.cuh on the CPU test device, and the attention kernels that are made of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import ml_dtypes
import numpy as np
import pytest

import dualml as dm
from dualml import dtypes, optim, runtime
from dualml.errors import KernelError
from dualml.kernel import DeviceInfo, Kernel
from dualml.models import GPT, GPTConfig
from dualml.nn import init
from dualml.ops.attention import Attention, attention_backward, attention_forward
from dualml.ops.attention_varlen import AttentionVarlen, attention_varlen_backward, attention_varlen_forward
from dualml.ops.base import Case, Op
from tests.parity.outcomes import run_op
from tests.test_cuda_on_cpu import floats, launch
from tests.training import training_step

HALVES = {"__half": np.float16, "__nv_bfloat16": ml_dtypes.bfloat16}
INCLUDE = '#include "lib/mma.cuh"\n'


# ---- the wrappers --------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("name", HALVES)
@pytest.mark.parametrize("whole", [True, False])
def test_product_of_fragments(name: str, whole: bool) -> None:
    """a through ldmatrix, b transposed on the way: as part of four matrices or of two."""
    rng = np.random.default_rng(1)
    a, b = (rng.standard_normal(s).astype(HALVES[name]).astype(np.float32) for s in ((16, 16), (16, 8)))
    body = INCLUDE + f"using T = {name};" + """
KERNEL {
    __shared__ __align__(16) T s[16 * 16 + 16 * 8];
    const u32 t = threadIdx.x, g = t / 4, c = t % 4 * 2;
    for (u32 i = t; i < 256; i += 32) s[i] = T(a[i]);
    for (u32 i = t; i < 128; i += 32) s[256 + i] = T(b[i]);
    __syncwarp();
    u32 fa[4], fb[COUNT];
    ldmatrix(fa, &s[t % 16 * 16 + t / 16 * 8]);
    ldmatrix<true>(fb, &s[256 + t % 16 * 8 + t / 16 * OFF]);
    float d[4] = {1.f, 1.f, 1.f, 1.f};
    mma<T>(d, fa, fb[0], fb[1]);
    for (u32 i = 0; i < 4; i++) out[(g + i / 2 * 8) * 8 + c + i % 2] = d[i];
}"""
    body = body.replace("COUNT", "4" if whole else "2")
    body = body.replace("OFF", "0" if whole else "1")  # the upper lanes' addresses, which are not aligned, are nobody's
    out = launch(body, a, b, groups="1", block=32, signature="a[M,K] b[K,N] -> out[M,N]", orders=(0, 1, 4))
    np.testing.assert_allclose(out, 1 + a.astype(np.float64) @ b, rtol=0, atol=3e-6)


@pytest.mark.parametrize("name", HALVES)
def test_results_are_the_next_products_operand(name: str) -> None:
    """(a aᵀ) v, as attention does it: rows of b as they lie, and pairs of results as a."""
    rng = np.random.default_rng(2)
    a, v = (rng.integers(-3, 4, (16, 16)).astype(np.float32) for _ in range(2))
    body = INCLUDE + f"using T = {name};" + """
KERNEL {
    __shared__ __align__(16) T s[512];
    const u32 t = threadIdx.x;
    for (u32 i = t; i < 512; i += 32) s[i] = T(i < 256 ? a[i] : v[i - 256]);
    __syncwarp();
    u32 fa[4], fb[4], fv[4];
    ldmatrix(fa, &s[t % 16 * 16 + t / 16 * 8]);
    ldmatrix(fb, &s[(t % 8 + t / 16 * 8) * 16 + t / 8 % 2 * 8]);
    ldmatrix<true>(fv, &s[256 + t % 16 * 16 + t / 16 * 8]);
    float s2[2][4] = {}, d[2][4] = {};
    for (u32 j = 0; j < 2; j++) mma<T>(s2[j], fa, fb[2 * j], fb[2 * j + 1]);
    const u32 fp[4] = {pack<T>(s2[0][0], s2[0][1]), pack<T>(s2[0][2], s2[0][3]),
                       pack<T>(s2[1][0], s2[1][1]), pack<T>(s2[1][2], s2[1][3])};
    for (u32 j = 0; j < 2; j++) {
        mma<T>(d[j], fp, fv[2 * j], fv[2 * j + 1]);
        for (u32 i = 0; i < 4; i++) out[(t / 4 + i / 2 * 8) * 16 + j * 8 + t % 4 * 2 + i % 2] = d[j][i];
    }
}"""
    out = launch(body, a, v, groups="1", block=32, signature="a[M,K] v[K,N] -> out[M,N]", orders=(0, 1, 4))
    assert np.array_equal(out, (a @ a.T) @ v)


def test_rows_of_a_matrix_must_be_aligned() -> None:
    body = INCLUDE + """KERNEL { __shared__ __align__(16) float s[512]; u32 d[4]; s[threadIdx.x] = x[0]; __syncwarp();
        ldmatrix(d, &s[threadIdx.x * 4 + %d]); out[threadIdx.x] = __uint_as_float(d[0]); }"""
    launch(body % 0, floats(32), groups="1", block=32)
    with pytest.raises(KernelError, match="ldmatrix address not aligned to 16 bytes"):
        launch(body % 2, floats(32), groups="1", block=32)


def test_tensor_cores_want_whole_warps() -> None:
    body = INCLUDE + """KERNEL { if (threadIdx.x == 3) return; u32 a[4] = {}; float d[4] = {};
        mma<__half>(d, a, 0, 0); out[threadIdx.x] = d[0]; }"""
    with pytest.raises(KernelError, match="absent lanes"):
        launch(body, floats(32), groups="1", block=32)


@pytest.mark.parametrize("size", [4, 16])
def test_asynchronous_copies_come_when_waited_for(size: int) -> None:
    body = INCLUDE + """
KERNEL {
    __shared__ __align__(16) float s[2 * BLOCK * WIDE];
    const u32 t = threadIdx.x;
    for (u32 half = 0; half < 2; half++) {
        copy_async<4 * WIDE>(&s[(half * BLOCK + t) * WIDE], &x[(half * BLOCK + t) * WIDE], half == 0 || t != 9);
        copy_commit();
    }
    copy_wait<PENDING>();
    for (u32 i = 0; i < 2 * WIDE; i++) {
        const u32 at = (i / WIDE * BLOCK + t) * WIDE + i % WIDE;
        out[at] = s[at];
    }
    copy_wait<0>();
}"""
    n = size // 4
    x = floats(128 * n)
    early, late = (launch(body.replace("PENDING", str(p)).replace("WIDE", str(n)), x, groups="1") for p in (1, 0))
    assert np.array_equal(early[:64 * n], x[:64 * n])
    assert np.isnan(early[64 * n:]).all()
    assert np.array_equal(late, np.where(np.arange(128 * n) // n == 73, 0, x))


def test_copies_that_nobody_waits_for() -> None:
    body = INCLUDE + """KERNEL { __shared__ __align__(16) float s[4 * BLOCK]; const u32 t = threadIdx.x;
        copy_async<16>(&s[4 * t], &x[4 * t], true); copy_commit(); if (t != 7) copy_wait<0>(); out[t] = 1.f; }"""
    with pytest.raises(KernelError, match="nobody waited for asynchronous copies of thread 7 of block 0"):
        launch(body, floats(256), groups="1")


# ---- attention -----------------------------------------------------------------------------------------------------

@contextmanager
def _sources(orders: tuple[int, ...] = (0,)) -> Iterator[list[str]]:
    """The sources of what is launched meanwhile, under these orders of threads on the test device."""
    backend: Any = runtime.get("cuda_on_cpu")
    stems: list[str] = []

    class Hook:
        def before(self, launch: runtime.Launch) -> None:
            stems.append(launch.spec.stem)

        def after(self, launch: runtime.Launch) -> None: ...

    hook = Hook()
    runtime.hooks.append(hook)
    try:
        with mock.patch.object(backend, "orders", orders):
            yield stems
    finally:
        runtime.hooks.remove(hook)


def _launched(kernel_case: Case, dtype: dtypes.DType, orders: tuple[int, ...] = (0,),
              op: type[Op] = Attention) -> tuple[Any, list[str]]:
    """The outcome on the test device, and the sources that made it."""
    with _sources(orders) as stems:
        return run_op(op, kernel_case, dtype, runtime.get("cuda_on_cpu")), stems


def _case(heads: int, kv_heads: int, queries: int, keys: int, size: int, **options: Any) -> Case:
    rng = np.random.default_rng(queries)
    q = rng.standard_normal((1, heads, queries, size))
    return Case("case", (q, *rng.standard_normal((2, 1, kv_heads, keys, size))), options)


@pytest.mark.parametrize(("size", "dtype", "mma"), [
    (64, dtypes.bfloat16, True), (32, dtypes.float16, True), (128, dtypes.bfloat16, True), (96, dtypes.float16, True),
    (64, dtypes.float32, False), (48, dtypes.bfloat16, False), (4, dtypes.float16, False)])
def test_who_gets_the_tensor_cores(size: int, dtype: dtypes.DType, mma: bool) -> None:
    stems = _launched(_case(1, 1, 3, 5, size), dtype)[1]
    end = ".mma" if mma else ""
    assert stems == [f"attention_forward{end}", "attention_backward_delta", f"attention_backward{end}"]


def test_devices_before_ampere_have_none_of_it() -> None:
    dims = {"D": 64, "TQ": 5}
    for kernel in (attention_forward, attention_backward, attention_varlen_forward, attention_varlen_backward):
        fits = [v.when for v in kernel.variants if v.name == "mma"]
        assert not any(when(DeviceInfo("cuda", "old", arch=75), dims) for when in fits)
        assert any(when(DeviceInfo("cuda", "new", arch=80), dims) for when in fits)


@pytest.mark.parametrize(("size", "queries", "keys", "offset"), [(64, 150, 150, 0), (64, 77, 210, 133),
                                                                 (128, 70, 100, 30), (32, 140, 64, 0)])
@pytest.mark.parametrize("dtype", [dtypes.bfloat16, dtypes.float16], ids=lambda d: d.name)
def test_error_is_at_most_twice_the_plain_kernels(size: int, queries: int, keys: int, offset: int,
                                                  dtype: dtypes.DType) -> None:
    """Of root mean squares, without any slack; and all orders of threads leave the same bits."""
    case = _case(2, 1, queries, keys, size, causal=True, offset=offset)
    _at_most_twice(case, dtype, Attention, attention_forward, attention_backward)


@pytest.mark.parametrize(("size", "lengths"), [(64, (70, 3, 0, 131)), (128, (1, 66, 64)), (32, (128, 129))])
@pytest.mark.parametrize("causal", [True, False])
def test_error_of_packed_sequences_too(size: int, lengths: tuple[int, ...], causal: bool) -> None:
    rng, tokens = np.random.default_rng(size), sum(lengths) + 9
    q, (k, v) = rng.standard_normal((tokens, 2, size)), rng.standard_normal((2, tokens, 1, size))
    starts = np.cumsum((0, *lengths)).astype(np.int32)
    _at_most_twice(Case("case", (q, k, v, starts), {"causal": causal}), dtypes.bfloat16, AttentionVarlen,
                   attention_varlen_forward, attention_varlen_backward)


def _at_most_twice(case: Case, dtype: dtypes.DType, op: type[Op], forward: Kernel, backward: Kernel) -> None:
    exact = run_op(op, case, dtype, runtime.get("cpu"), dtype=dtypes.float64)
    mma, stems = _launched(case, dtype, (0, 1, 2, 3), op)
    assert "attention_forward.mma" in stems
    with mock.patch.multiple(forward, variants=[], made={}), mock.patch.multiple(backward, variants=[], made={}):
        plain, stems = _launched(case, dtype, op=op)
    assert "attention_forward" in stems
    for (what, here), (_, there), (_, right) in zip(mma.named(), plain.named(), exact.named(), strict=True):
        mine, its = (np.sqrt(np.mean((x.astype(np.float64) - right) ** 2)) for x in (here, there))
        assert mine <= 2 * its, f"{what}: {mine / its:.2f} times the plain kernel's error"


def test_rows_that_no_query_sees_get_no_gradient() -> None:
    """Key tiles whose workgroups have nothing to sum, and write zeros over a tile that was on its way."""
    outcome, _ = _launched(_case(1, 1, 5, 200, 64, causal=True), dtypes.bfloat16, (0, 1, 2, 3, 4))
    for gradient in outcome.gradients[1:]:
        assert gradient is not None
        assert not gradient[:, :, 5:].astype(np.float32).any()
        assert gradient[:, :, :5].astype(np.float32).any()


# ---- training ------------------------------------------------------------------------------------------------------

def _training(backend: str, precision: str, heads: int, seed: int) -> np.ndarray:
    """Losses of twelve steps of a GPT, 64 wide and one layer high, on a text that comes again and again."""
    rng, context, found = np.random.default_rng(seed), 72, []
    text = rng.integers(0, 64, 97).astype(np.int32)
    with runtime.use_backend(backend):
        dm.manual_seed(seed)
        model = GPT(GPTConfig(64, context, 1, heads, 64))
        for layer in (model.h[0].attn.qkv, model.h[0].attn.proj):
            init.normal_(layer.weight, 0.0, 0.15)  # so that it matters at once who attends to whom
        step = training_step(model, optim.AdamW(model.parameters(), 3e-3), precision)
        for _ in range(12):
            tokens = text[(rng.integers(0, 97, (2, 1)) + np.arange(context + 1)) % 97]
            found.append(step(dm.tensor(tokens[:, :-1].copy()), dm.tensor(tokens[:, 1:].copy())).item())
    return np.array(found)


@pytest.mark.parametrize("heads", [2, 1], ids=["32 wide", "64 wide"])
def test_training_follows_float32_as_closely_as_numpy_does(heads: int) -> None:
    """Of root mean squares of losses: at most twice as far, as for results above. NumPy's distance in bfloat16 is that
    of five runs, since the losses of one go astray together and are a matter of luck."""
    full = [_training("cpu", "float32", heads, seed) for seed in range(5)]
    its = np.sqrt(np.mean([(_training("cpu", "bfloat16", heads, seed) - full[seed]) ** 2 for seed in range(5)]))
    with _sources() as stems:
        losses = _training("cuda_on_cpu", "bfloat16", heads, 0)
    assert {"attention_forward.mma", "attention_backward.mma", "matmul.mma"} <= set(stems)
    assert not {"attention_forward", "attention_backward", "matmul"} & set(stems)
    mine = np.sqrt(np.mean((losses - full[0]) ** 2))
    assert mine <= 2 * its, f"{mine:.1e}, NumPy {its:.1e}"
    assert losses[-1] < losses[0] - 0.5
