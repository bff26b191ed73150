"""Mixed precision's casts and dropout join the norms beside them, and leave the same bits."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest

import dualml as dm
from dualml import amp, nn, optim, runtime
from dualml.array import from_numpy, run
from dualml.dtypes import DType, as_dtype, float32
from dualml.kernel import Kernel
from dualml.models import GPT, GPTConfig
from dualml.ops.norm import layer_norm_backward, layer_norm_forward, rms_norm_backward, rms_norm_forward
from dualml.ops.norm_dropout import ROUNDINGS, dropout_layer_norm_forward, layer_norm_dropout_backward
from tests.parity.modes import PRESENT, REQUIRED
from tests.test_fusion import check, normal
from tests.test_nvrtc import Recorder, check as compiled, nvrtc

F = nn.functional
SHORTS = ("float16", "bfloat16")
PRETENDED = ("webgpu_gpu", "webgpu_plain") if "webgpu" in PRESENT else ()  # sources of GPUs, and without subgroups


def _each(names: tuple[str, ...]) -> pytest.MarkDecorator:
    """Each of these backends with each 16-bit dtype that it has."""
    return pytest.mark.parametrize(("backend", "short"), [
        (name, dtype) for name in names for dtype in SHORTS if as_dtype(dtype) in runtime.get(name).dtypes],
        indirect=["backend"] if names == PRESENT else [])


def _names(program: Any) -> Counter[str]:
    return Counter(item.name for item in program.items)


# ---- whole steps ----------------------------------------------------------------------------------------------------

class Training:
    """64 tokens, and widths that are multiples of 4."""

    def __init__(self, precision: str, dropout: float, fusion: bool | None) -> None:
        dm.manual_seed(3)
        self.model = GPT(GPTConfig(vocab_size=32, context=32, layers=2, heads=2, width=32, dropout=dropout,
                                   head_bias=True))
        self.optimizer = optim.AdamW(self.model.parameters(), 1e-2)
        self.scaler = amp.LossScaler(precision, dm.get_backend())
        self.precision = precision
        self.step: Any = self._step if fusion is None else dm.capture(self._step, fusion=fusion)

    def _step(self, tokens: dm.Tensor, targets: dm.Tensor) -> tuple[dm.Tensor, dm.Tensor]:
        with amp.autocast(self.precision):
            loss = self.model(tokens, targets)[1]
        loss.backward(self.scaler.seed(1))
        factor, norm = self.scaler.factor(optim.grad_norm(self.model.parameters()), 1.0)
        self.optimizer.step(factor)
        self.optimizer.zero_grad()
        return loss.detach(), norm

    def run(self, steps: int) -> list[bytes]:
        rng, found = np.random.default_rng(4), []
        for _ in range(steps):
            tokens, targets = (dm.tensor(rng.integers(0, 32, (2, 32)).astype(np.int32)) for _ in range(2))
            found += [t.numpy().tobytes() for t in self.step(tokens, targets)]
        return found + [p.detach().numpy().tobytes() for p in self.model.parameters()]


@pytest.mark.parametrize("dropout", [0.0, 0.2])
@_each(PRESENT)
def test_a_training_run_is_the_same_bit_for_bit(backend: str, short: str, dropout: float) -> None:
    steps = 12 if backend in ("cpu", "webgpu") else 4
    plain, fused = Training(short, dropout, False).run(steps), Training(short, dropout, True)
    assert fused.run(steps) == plain == Training(short, dropout, None).run(steps)
    (program,) = fused.step.programs
    names = _names(program)
    assert names["dropout_forward"] == names["layer_norm_forward" if dropout else "dropout_layer_norm_forward"] == 0
    assert names["dropout_layer_norm_forward" if dropout else "layer_norm_forward"] == 5
    assert names["layer_norm_dropout_backward"] + names["layer_norm_backward"] == 5
    assert names["cast_forward"] <= 10, program.explain()


def test_explained(cpu: None) -> None:
    training = Training("bfloat16", 0.2, True)
    training.run(3)
    text = training.step.programs[0].explain()
    for done in ("reads bfloat16", "stores bfloat16", "drops out what it makes"):
        assert done in text


# ---- rules ----------------------------------------------------------------------------------------------------------

def _rms(x: dm.Tensor, short: str) -> tuple[dm.Tensor, ...]:
    """As in a Llama: a branch in 16 bits is added, the norm feeds the next, and the gradient comes back in 16 bits."""
    x = x.detach().requires_grad_()
    weight = (x[0] * 0.5 + 1).detach().requires_grad_()
    h, out = F.add_rms_norm(x.tanh().to(short).float(), x, weight)
    made = out.to(short) * 3
    (made.float() * h.detach()).sum().backward()
    return h, made.float(), x.grad, weight.grad


def _layer(x: dm.Tensor, short: str) -> tuple[dm.Tensor, ...]:
    x = x.detach().requires_grad_()
    weight = (x[0] * 0.5 + 1).detach().requires_grad_()
    h, out = F.add_layer_norm(x, x.tanh().to(short).float(), weight, weight * 0.5)
    made = F.dropout(out.to(short) * 3, 0.3, training=True)
    (made.float() * h.detach()).sum().backward()
    return h, made.float(), x.grad, weight.grad


@pytest.mark.parametrize("width", [8, 7, 132])
@_each(PRESENT)
@pytest.mark.parametrize("step", [_rms, _layer])
def test_casts_around_a_norm(backend: str, step: Any, short: str, width: int) -> None:
    text = check(lambda x: step(x, short), normal(64, width)).explain()
    norm = "rms_norm" if step is _rms else "layer_norm"
    for name, done in (("forward", "reads {}"), ("forward", "stores {}"), ("backward", "reads {}"),
                       ("backward", "stores {} too")):
        assert any(f" {norm}_{name} (" in line and line.endswith(f") {done.format(short)}")
                   for line in text.splitlines()), text


def _both_in_16_bits(x: dm.Tensor) -> tuple[dm.Tensor, ...]:
    return F.add_layer_norm(x.half().float(), (x * 2).half().float())


def _used_twice(x: dm.Tensor) -> tuple[dm.Tensor, ...]:
    """What the norm reads and what it makes has other readers."""
    wide = x.half().float()
    out = F.layer_norm(wide, (x.shape[-1],))
    return out.half() * 2, out.softmax(-1), wide.softmax(-1)


def _its_own_residual(x: dm.Tensor) -> tuple[dm.Tensor, ...]:
    wide = x.half().float()
    return F.add_layer_norm(wide, wide)


def _gradient_used_again(x: dm.Tensor) -> tuple[dm.Tensor, ...]:
    """The gradient that a norm adds may not make room for the sum."""
    x = x.detach().requires_grad_()
    other = x.tanh()
    dropped = F.dropout(x, 0.5, training=True)
    out = F.layer_norm(dropped, (x.shape[-1],))
    (out.square() * 0.5 + (dropped + other).square()).sum().backward()
    return x.grad, out


@pytest.mark.parametrize("step", [_both_in_16_bits, _used_twice, _its_own_residual, _gradient_used_again])
def test_what_only_looks_alike(fast_backend: str, step: Any) -> None:
    check(step, normal(64, 8))


# ---- kernels --------------------------------------------------------------------------------------------------------

Launch = tuple[Kernel, dict[str, Any], list[np.ndarray], dict[str, str]]


def _launches(rows: int, width: int, short: str) -> list[Launch]:
    """Kernel, scalars, inputs, and the dtypes of outputs."""
    host, like = as_dtype(short).host, np.random.default_rng(7)
    x, other, dout = like.standard_normal((3, rows, width)).astype(np.float32)
    weight = like.standard_normal((1, width)).astype(np.float32)
    state = np.array([3, 4, 2**32 - 2, 6], np.uint32)
    mean, rstd = x.mean(1), 1 / x.std(1)
    given, gradient = x.astype(host), dout.astype(host)
    sums = {"S": min(rows, 2), "P": 2}
    drop = {"rounding": ROUNDINGS[as_dtype(short)], "offset": 3, "threshold": 2**30, "scale": 4 / 3}
    found: list[Launch] = [
        (layer_norm_forward, {"eps": 1e-5}, [given, other[None], weight, weight], {"Y": short}),
        (rms_norm_forward, {"eps": 1e-5}, [given, other[None], weight], {"Y": short}),
        (layer_norm_backward, sums, [gradient, x, other[None], weight, mean, rstd], {}),
        (rms_norm_backward, {**sums, "P": 1, "Z": 1}, [gradient, x, other[None], weight, rstd], {"Y": short}),
        (layer_norm_dropout_backward, {**sums, **drop, "R": 1, "DROP": 0},
         [gradient, x, weight, np.concatenate([mean, rstd]), state, other], {"Y": short})]
    if width % 4 == 0:
        found += [(dropout_layer_norm_forward, {"eps": 1e-5, **drop}, [given, other[None], weight, weight, state],
                   {"Y": short}),
                  (layer_norm_dropout_backward, {**sums, **drop, "R": 1, "DROP": 1},
                   [gradient, x, weight, np.concatenate([mean, rstd]), state, other], {"Y": short})]
    return found


def _arrays(backend: Any, launch: Launch, wide: bool) -> list[Any]:
    """Inputs on a backend; with `wide`, all in float32."""
    return [from_numpy(x.astype(np.float32) if wide and x.dtype.itemsize == 2 else x, backend=backend)
            for x in launch[2]]


def _made(backend: Any, launch: Launch, wide: bool) -> list[np.ndarray]:
    kernel, scalars, _, letters = launch
    arrays = _arrays(backend, launch, wide)
    if wide and "rounding" in scalars:
        scalars = {**scalars, "rounding": 0}
    types: dict[str, DType] = {letter: float32 if wide else as_dtype(name) for letter, name in letters.items()}
    made = run(kernel, *arrays, types=types, **scalars)
    return [a.numpy() for a in (*[arrays[i] for i in kernel.updated], *made)]


@pytest.mark.parametrize("width", [5, 24, 1032])
@_each((*PRESENT, *PRETENDED))
def test_kernels_with_two_dtypes(backend: str, short: str, width: int) -> None:
    """What is loaded and stored in 16 bits is what float32 would be, rounded: to the bit without dropout, whose result
    is rounded before the residual is added. And float32 gives what NumPy gives."""
    host, device = as_dtype(short).host, runtime.get(backend)
    for launch in _launches(3, width, short):
        kernel = launch[0]
        mixed, wide = _made(device, launch, False), _made(device, launch, True)
        for one, two, three in zip(mixed, wide, _made(runtime.get("cpu"), launch, True), strict=True):
            np.testing.assert_allclose(two, three, rtol=1e-5, atol=1e-5 * np.abs(three).max())
            if "dropout" in kernel.name and launch[1].get("DROP", 1):
                close = 0.02 if short == "bfloat16" else 0.003
                np.testing.assert_allclose(one.astype(np.float32), two, rtol=close, atol=close * np.abs(two).max())
            else:
                assert one.tobytes() == two.astype(one.dtype).tobytes(), kernel.name
        assert host in [x.dtype for x in mixed] or kernel is layer_norm_backward


@pytest.mark.parametrize("arch", [80, 90])
def test_kernels_with_two_dtypes_compile(arch: int) -> None:
    """By NVIDIA's compiler, without spills."""
    if nvrtc() is None:
        (pytest.fail if "nvrtc" in REQUIRED else pytest.skip)("NVRTC's wheels are not installed")
    device = Recorder(arch)
    for short in SHORTS:
        for width in (5, 1032):
            for launch in _launches(3, width, short):
                _made(device, launch, False)
    compiled(device)
