"""Attention of packed sequences: beside attention of each alone, PyTorch, other starts in replays, wrong starts."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as TF

import dualml as dm
from dualml import runtime
from dualml.array import Array, from_numpy, run
from dualml.dtypes import float32
from dualml.errors import GradientError, ShapeError
from dualml.kernel import Kernel
from dualml.nn import functional as F
from dualml.ops.attention import attention_backward_delta
from dualml.ops.attention_varlen import attention_varlen_backward, attention_varlen_forward
from dualml.ops.base import OPS
from dualml.programs.costs import operations
from dualml.programs.reach import check_reach
from tests.parity.modes import PRESENT
from tests.parity.outcomes import cases_of, run_op

MODES = [n for n in (*PRESENT, "webgpu_guarded", "webgpu_gpu") if "webgpu" in PRESENT or "webgpu" not in n]


def starts_of(lengths: Sequence[int]) -> np.ndarray:
    return np.array([0, *accumulate(lengths)], np.int32)


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def with_gradient(qkv: np.ndarray, seed: np.ndarray, starts: np.ndarray | None = None, **options: Any) -> Any:
    """Attention of a packed qkv, and the gradient of sum(out * seed)."""
    x = dm.tensor(qkv, requires_grad=True)
    out = F.attention_qkv(x, 4, 2, cu_seqlens=None if starts is None else dm.tensor(starts), **options)
    (out * dm.tensor(seed)).sum().backward()
    assert x.grad is not None
    return out.detach().numpy(), x.grad.numpy()


@pytest.mark.parametrize("causal", [True, False])
def test_each_sequence_is_as_if_alone(causal: bool, backend: str) -> None:
    lengths = (5, 0, 67, 1, 9, 0)
    starts, qkv, seed = starts_of(lengths), normal(sum(lengths), 64), normal(sum(lengths), 32, seed=1)
    out, gradient = with_gradient(qkv, seed, starts, causal=causal)
    for a, b in pairwise(starts.tolist()):
        if a < b:
            alone, its = with_gradient(qkv[None, a:b], seed[None, a:b], causal=causal)
            np.testing.assert_allclose(out[a:b], alone[0], atol=2e-6)
            np.testing.assert_allclose(gradient[a:b], its[0], atol=1e-5)


@pytest.mark.parametrize("causal", [True, False])
def test_like_pytorch(causal: bool, fast_backend: str) -> None:
    starts, options = starts_of((3, 1, 12, 7)), {"is_causal": causal, "scale": 0.4, "enable_gqa": True}
    host = [normal(23, heads, 8, seed=heads + i) for i, heads in enumerate((4, 2, 2))]
    here, there = [dm.tensor(x, requires_grad=True) for x in host], [torch.tensor(x, requires_grad=True) for x in host]
    out, seed = F.varlen_attn(*here, dm.tensor(starts), **options), normal(23, 4, 8, seed=9)
    parts = [TF.scaled_dot_product_attention(*(x[a:b].transpose(0, 1) for x in there), **options).transpose(0, 1)
             for a, b in pairwise(starts.tolist())]
    wanted = torch.cat(parts)
    (out * dm.tensor(seed)).sum().backward()
    (wanted * torch.tensor(seed)).sum().backward()
    np.testing.assert_allclose(out.detach().numpy(), wanted.detach(), atol=2e-6)
    for mine, its in zip(here, there, strict=True):
        assert mine.grad is not None
        assert its.grad is not None
        np.testing.assert_allclose(mine.grad.numpy(), its.grad, atol=1e-5)


def test_a_replay_has_its_own_lengths(fast_backend: str) -> None:
    """The starts are read on the device alone: by an argument, and by a tensor that is written to."""
    kept, tokens = dm.tensor(starts_of((40, 30, 5))), 75
    qkv, seed = normal(tokens, 64), dm.tensor(normal(tokens, 32, seed=1))

    def step(x: dm.Tensor, starts: dm.Tensor) -> tuple[dm.Tensor, ...]:
        x = x.detach().requires_grad_()
        one, two = F.attention_qkv(x, 4, 2, cu_seqlens=starts), F.attention_qkv(x, 4, 2, False, cu_seqlens=kept)
        ((one + two) * seed).sum().backward()
        assert x.grad is not None
        return one.detach(), two.detach(), x.grad

    captured = dm.capture(step)
    for lengths, others in (((40, 30, 5), (40, 30, 5)), ((1, 2, 3), (75, 0, 0)), ((0, 75, 0), (20, 20, 35)),
                            ((33, 33, 9), (5, 66, 4)), ((25, 25, 25), (0, 0, 0))):
        kept.copy_(dm.tensor(starts_of(others)))
        got = captured(dm.tensor(qkv), dm.tensor(starts_of(lengths)))
        for here, there in zip(got, step(dm.tensor(qkv), dm.tensor(starts_of(lengths))), strict=True):
            np.testing.assert_array_equal(here.numpy(), there.numpy())
        one, _ = with_gradient(qkv, seed.numpy(), starts_of(lengths))
        np.testing.assert_allclose(got[0].numpy(), one, atol=1e-6)
    assert len(captured.programs) == 1


def test_tokens_of_no_sequence(backend: str) -> None:
    """They are zero whatever they hold, and so are their gradients; others see nothing of them."""
    starts, qkv, seed = starts_of((4, 3)), normal(80, 64), normal(80, 32, seed=1)
    clean = with_gradient(qkv[:7], seed[:7], starts)
    qkv[7:], seed[7:] = np.nan, np.inf
    x = dm.tensor(qkv, requires_grad=True)
    out = F.attention_qkv(x, 4, 2, cu_seqlens=dm.tensor(starts))
    out.backward(dm.tensor(seed))
    assert x.grad is not None
    for found, wanted in zip((out.detach().numpy(), x.grad.numpy()), clean, strict=True):
        np.testing.assert_allclose(found[:7], wanted, atol=2e-6)
        assert not found[7:].any()


def test_random_lengths(backend: str) -> None:
    """Tiles of any sequence are found, wherever it begins."""
    rng, cpu = np.random.default_rng(3), runtime.get("cpu")
    for _ in range(4 if backend == "cuda_on_cpu" else 12):
        lengths = rng.integers(0, (4, 140)[rng.integers(2)], rng.integers(1, 9))
        starts, qkv = starts_of(lengths.tolist()), normal(int(lengths.sum()) + int(rng.integers(1, 70)), 12)
        here, there = (F.attention_qkv(dm.tensor(qkv, backend=b.name), 1, cu_seqlens=dm.tensor(starts, backend=b.name))
                       for b in (runtime.current(), cpu))
        np.testing.assert_allclose(here.numpy(), there.numpy(), atol=2e-6, err_msg=f"starts {starts}")


# ---- starts that are wrong ------------------------------------------------------------------------------------------

def _amid_nan(x: np.ndarray, name: str) -> Array:
    """An Array of these values in an arena that has NaN on both sides."""
    backend = runtime.get(name)
    room = max(backend.alignment, 1024)
    arena = from_numpy(np.full(x.size + 2 * room, np.nan, x.dtype), backend=backend)
    found = arena.slot(room, x.shape)
    inside = np.full(x.size + 2 * room, np.nan, x.dtype)
    inside[room:room + x.size] = x.reshape(-1)
    arena.write(inside)
    return found


def _whole(slot: Array) -> np.ndarray:
    return Array(slot.buffer, (slot.buffer.nbytes // 4,), float32).numpy()


@pytest.mark.parametrize("name", MODES)
@pytest.mark.parametrize("starts", [
    [0, 50, 20, 90], [0, -5, 2**31 - 1, 30], [-2**31, 2**31 - 1], [7, 7, 200, 300, 400], [0, 120, 0, 120, 0, 120],
    [5, -1, -1, -1], [119, 118, 117]])
def test_wrong_starts_lead_nowhere(starts: list[int], name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What comes out has no meaning, but all that is read and written lies inside the tensors."""
    if name == "cuda_on_cpu":  # not even one order of workgroups or another
        monkeypatch.setattr(runtime.get(name), "orders", (0,))
    tokens, heads, size, all_heads = 120, 2, 8, 4
    backend = runtime.get(name)
    x = _amid_nan(normal(tokens * all_heads, size), name)
    there = from_numpy(np.array(starts, np.int32), backend=backend)
    scalars: dict[str, Any] = {
        "B": 1, "H": heads, "KVH": 1, "TQ": tokens, "TK": tokens, "offset": 0, "scale": 0.5, "q_b": 0,
        "q_t": all_heads, "q_h": 1, "k_at": 2, "v_at": 3, "k_b": 0, "k_t": all_heads, "k_h": 1, "o_b": 0, "o_t": heads,
        "o_h": 1}
    out, lse, grad = (_amid_nan(np.full(shape, 7, np.float32), name) for shape in (
        (tokens * heads, size), (tokens * heads,), (tokens * all_heads, size)))
    run(attention_varlen_forward, x, x, x, there, out=(out, lse), **scalars)
    delta = run(attention_backward_delta, out, out)
    run(attention_varlen_backward, x, x, x, out, lse, delta, there, out=(grad,), **scalars, NG=tokens * all_heads,
        gk_at=2, gv_at=3)
    for slot in (out, lse, grad):
        whole, begin = _whole(slot), slot.offset
        assert not np.isnan(slot.numpy()).any()
        rest = [whole[:begin], whole[begin + slot.size:begin + slot.size + 1000]]
        assert np.isnan(np.concatenate(rest)).all()


# ---- the public function --------------------------------------------------------------------------------------------

def test_what_is_refused(cpu: None) -> None:
    q, k, starts = dm.ones(4, 4, 8), dm.ones(4, 2, 8), dm.tensor(starts_of((1, 3)))
    with pytest.raises(ShapeError, match=r"\[varlen_attn\] key must have as many heads as query.*enable_gqa=True"):
        F.varlen_attn(q, k, k, starts)
    with pytest.raises(TypeError, match=r"\[varlen_attn\] cu_seqlens must be a Tensor"):
        F.varlen_attn(q, k, k, [0, 1, 4], enable_gqa=True)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"\[attention_varlen\] cu_seqlens must be int32, got float32. Cast it"):
        F.varlen_attn(q, q, q, starts.float())
    with pytest.raises(ShapeError, match=r"\[attention_varlen\] cu_seqlens must be \[sequences\+1\].*got shape \(\)"):
        F.varlen_attn(q, q, q, starts.sum().int())


def test_starts_that_change_before_backward(cpu: None) -> None:
    x, starts = dm.ones(4, 24, requires_grad=True), dm.tensor(starts_of((1, 3)))
    out = F.attention_qkv(x, 1, cu_seqlens=starts)
    starts.copy_(dm.tensor(starts_of((2, 2))))
    with pytest.raises(GradientError, match="changed in place after the forward"):
        out.sum().backward()


def test_under_autocast(cpu: None) -> None:
    with dm.amp.autocast("bfloat16"):
        out = F.attention_qkv(dm.ones(4, 24), 1, cu_seqlens=dm.tensor(starts_of((1, 3))))
    assert out.dtype is dm.bfloat16


# ---- what uses it ---------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_texts_of_any_lengths_in_one_batch(pooling: str, fast_backend: str) -> None:
    dm.manual_seed(1)
    model = dm.models.Bert(dm.models.BertConfig(50, 16, 2, 2, 16, 32, pooling=pooling))
    texts = [np.random.default_rng(i).integers(0, 50, n).astype(np.int32) for i, n in enumerate((3, 16, 1, 7, 7))]
    alone = np.concatenate([model.embed(dm.tensor(text[None])).detach().numpy() for text in texts])
    np.testing.assert_allclose(model.encode(texts), alone, atol=2e-6)
    np.testing.assert_allclose(model.encode(texts, batch=2), alone, atol=2e-6)
    model.embed_packed(texts).sum().backward()
    for parameter in (model.wte.weight, model.h[0].attn.qkv.weight):
        assert parameter.grad is not None
    for wrong in ([], [texts[0], texts[0][:0]], [np.zeros(17, np.int32)]):
        with pytest.raises(ShapeError, match=r"\[bert\] texts must have 1 to 16 tokens"):
            model.embed_packed(wrong)


def test_long_texts_go_through_in_several_groups(cpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
    from dualml.models import bert
    monkeypatch.setattr(bert, "_MOST_TOKENS", 20)
    model, seen = bert.Bert(bert.BertConfig(50, 30, 1, 2, 16, 32)), []
    texts = [np.full(n, i, np.int32) for i, n in enumerate((3, 16, 1, 7, 7, 30, 6))]
    alone = np.concatenate([model.encode([text]) for text in texts])

    def packed(rows: list[np.ndarray], normalize: bool) -> dm.Tensor:
        seen.append([len(row) for row in rows])
        return bert.Bert.embed_packed(model, rows, normalize)
    monkeypatch.setattr(model, "embed_packed", packed)
    np.testing.assert_allclose(model.encode(texts), alone, atol=2e-6)
    assert seen == [[1, 3, 6, 7], [7], [16], [30]]
    assert model.encode([]).shape == (0, 16)


# ---- what programs know of it ---------------------------------------------------------------------------------------

class _Launches:
    def __init__(self) -> None:
        self.found: list[runtime.Launch] = []

    def before(self, launch: runtime.Launch) -> None:
        if launch.spec.kernel.source in ("attention_forward", "attention_backward"):
            self.found.append(launch)

    def after(self, launch: runtime.Launch) -> None: ...


def _launches(op: str, monkeypatch: pytest.MonkeyPatch) -> list[runtime.Launch]:
    hook = _Launches()
    monkeypatch.setattr(runtime, "hooks", [*runtime.hooks, hook])
    for case in cases_of(op):
        run_op(OPS[op], case, float32, runtime.get("cpu"))
    return hook.found


def _refused(kernel: Kernel, dims: dict[str, Any]) -> bool:
    try:
        check_reach(kernel, dims)
    except ValueError:
        return True
    return False


@pytest.mark.parametrize("op", [n for n in OPS if n.startswith("attention")])
def test_launches_of_program_files_stay_inside(op: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """All that the op does is allowed. A step that leads elsewhere is not, where there is anything to step over."""
    found = _launches(op, monkeypatch)
    assert len(found) >= 10
    for launch in found:
        kernel, dims = launch.spec.kernel, dict(launch.dims)
        check_reach(kernel, dims)
        lies: list[dict[str, int]] = [{"KVH": 0}, {"KVH": 3 * dims["H"]}]  # type: ignore[list-item]
        lies += [{"TQ": 2**31, "TK": 2**31}, {"H": 2**20 * dims["KVH"]}] if dims["TQ"] else []  # type: ignore[list-item]
        lies += [{"v_at": 2**31}] if dims["TK"] else []
        lies += [{"q_t": 2**20, "o_t": 2**20}] if dims["TQ"] > 1 else []
        lies += [{"gv_at": 2**31}, {"gk_at": 2**31}] if "NG" in dims else []
        lies += [{"S": 0}, {"B": 2}, {"TK": dims["TK"] + 1}] if "S" in dims else []  # type: ignore[list-item]
        assert [lie for lie in lies if not _refused(kernel, {**dims, **lie})] == []


def test_operations_are_the_fewest_there_can_be(monkeypatch: pytest.MonkeyPatch) -> None:
    launch = next(x for x in _launches("attention_varlen", monkeypatch) if x.spec.kernel is attention_varlen_forward)
    assert operations(launch.spec, launch.dims) == 4 * 2 * 8 * (4**2 + 4**2)  # eight tokens of two sequences
