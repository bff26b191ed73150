"""What dualml refuses, and the words it uses: `[op] argument must <expected>, got <actual>. <fix>`."""

from __future__ import annotations

import inspect
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import dualml as dm
from dualml import errors, runtime
from dualml.backends.base import Backend
from dualml.config import FLAGS
from dualml.errors import BackendError, DTypeError, DualmlError, LimitError, ShapeError
from dualml.models import GPT, GPTConfig

ROOT = Path(__file__).resolve().parents[1]
F = dm.nn.functional


def _gpt() -> GPT:
    return GPT(GPTConfig(vocab_size=5, context=4, layers=1, heads=1, width=4))


MESSAGES: dict[str, tuple[Callable[[], object], str]] = {
    "broadcast": (lambda: dm.ones(2, 3) + dm.ones(4), r"\[add\] shapes must broadcast .*, got \(2, 3\) and \(4,\)"),
    "operand": (lambda: dm.ones(2) + "a", r"\[add\] operands must be tensors or numbers, got str"),
    "dim": (lambda: dm.ones(2, 3).sum(2), r"\[sum\] dim must be in \[-2, 1\] for 2 dimensions, got 2"),
    "dim twice": (lambda: dm.ones(2, 3).sum((0, -2)), r"\[sum\] dim must not repeat a dimension"),
    "reshape": (lambda: dm.ones(2, 3).reshape(4), r"\[reshape\] .*\(2, 3\).*\(4,\)"),
    "permute": (lambda: dm.ones(2, 3).permute(0, 0), r"\[permute\]"),
    "expand": (lambda: dm.ones(2, 3).expand(2, 4), r"\[expand\]"),
    "split": (lambda: dm.ones(5).split([2, 2]), r"\[split\] sizes must add up to 5, got \[2, 2\]"),
    "item": (lambda: dm.ones(2).item(), r"\[item\] the tensor must have one element, got shape \(2,\)"),
    "len": (lambda: len(dm.ones(2).sum()), r"\[len\]"),
    "index": (lambda: dm.ones(2, 3)[2], r"\[getitem\] index 2 is out of range for dimension 0 of size 2"),
    "too many indices": (lambda: dm.ones(2)[0, 0], r"\[getitem\] at most 1 indices fit"),
    "float index": (lambda: dm.ones(2)[dm.ones(1)], r"\[getitem\] an index tensor must be int32, got float32"),
    "matmul": (lambda: dm.ones(2, 3) @ dm.ones(2, 3), r"\[matmul\]"),
    "assignment": (lambda: dm.ones(2).__setitem__(0, 3), r"\[setitem\] items .* cannot be assigned. Use dm.where"),
    "no such size": (lambda: dm.ones(-1), r"\[ones\] sizes must be 0 or more, got \(-1,\)"),
    "half a size": (lambda: dm.randn(3 / 2, 2), r"sizes must be integers, got 1.5"),
    "nothing": (lambda: dm.tensor(None), r"\[tensor\] data must be numbers.*got None"),
    "constructor": (lambda: dm.Tensor([1]), r"\[Tensor\] array must be an Array, got list. Make one with dm.tensor"),
    "metal": (lambda: dm.set_backend("metal"), r"got 'metal'\. .* reached by webgpu"),
    "missing name": (lambda: dm.device("cpu"), r"there is no dm.device\. A tensor has a backend"),
    "layer": (lambda: dm.nn.Conv2d(3, 4, 5), r"there is no nn.Conv2d\. There are no convolutions"),
    "recurrent layer": (lambda: dm.nn.LSTM(3, 4), r"there is no nn.LSTM\. There are no recurrent layers"),
    "norm over the batch": (lambda: dm.nn.BatchNorm1d(3), r"there is no nn.BatchNorm1d\. Use nn.LayerNorm"),
    "no such layer": (lambda: dm.nn.Dense, r"there is no nn.Dense\.$"),
    "module's device": (lambda: dm.nn.Linear(2, 2).cuda(), r"Linear has no attribute 'cuda'\. Move it with .to\('cuda"),
    "Apple": (lambda: dm.nn.Linear(2, 2).mps(), r"reached by WebGPU: .to\('webgpu'\)"),
    "no attribute": (lambda: dm.nn.Linear(2, 2).weights, r"\[module\] Linear has no attribute 'weights'\.$"),
    "linear of integers": (lambda: dm.nn.Linear(2, 2)(dm.ones(2).int()), r"\[linear\] x must be floating, got int32"),
    "no super": (lambda: type("M", (dm.nn.Module,), {"__init__": lambda s: None})().training, r"Call super\(\)"),
    "text for a model": (lambda: _gpt()("hello"), r"\[gpt\] tokens must be a Tensor, got str\. Encode text with a tok"),
    "list for a model": (lambda: _gpt()([[1, 2]]), r"\[gpt\] tokens must be a Tensor, got list\. Make one"),
    "text to go on from": (lambda: _gpt().generate("The", 4),
                           r"\[generate\] tokens must be whole numbers, got 'The'\. Encode text first"),
    "texts to go on from": (lambda: _gpt().generate(["The", "A"], 4), r"whole numbers, got \['The', 'A'\]"),
    "fractions to go on from": (lambda: next(_gpt().stream([1.5])), r"whole numbers, got \[1.5\]"),
    "cat of none": (lambda: dm.cat([]), r"\[cat\] expected at least one tensor"),
    "cat": (lambda: dm.cat([dm.ones(2, 3), dm.ones(2, 4)]), r"\[cat\]"),
    "stack": (lambda: dm.stack([dm.ones(2), dm.ones(3)]), r"\[stack\] all shapes must be equal"),
    "clamp": (lambda: dm.ones(2).clamp(), r"\[clamp\] expected min or max, got neither"),
    "approximate": (lambda: F.gelu(dm.ones(2), approximate="fast"),
                    r"\[gelu\] approximate must be 'none' or 'tanh', got 'fast'"),
    "layer_norm": (lambda: F.layer_norm(dm.ones(2, 3), (2,)), r"\[layer_norm\] normalized_shape must be the last"),
    "weight": (lambda: F.layer_norm(dm.ones(2, 3), (3,), dm.ones(2)), r"\[layer_norm\] weight must"),
    "p": (lambda: F.dropout(dm.ones(2), 1.5), r"\[dropout\] p must be in \[0, 1\], got 1.5"),
    "target dtype": (lambda: F.cross_entropy(dm.ones(2, 3), dm.ones(2)),
                     r"\[cross_entropy\] target must be int32 class indices, got float32"),
    "target shape": (lambda: F.cross_entropy(dm.ones(2, 3), dm.ones(3).int()),
                     r"\[cross_entropy\] target must have logits' shape"),
    "reduction": (lambda: F.mse_loss(dm.ones(2), dm.ones(2), "avg"),
                  r"\[mse_loss\] reduction must be mean, sum or none, got 'avg'"),
    "heads": (lambda: F.scaled_dot_product_attention(dm.ones(1, 4, 2, 8), dm.ones(1, 2, 2, 8), dm.ones(1, 2, 2, 8)),
              r"Pass enable_gqa=True"),
    "embed_dim": (lambda: dm.nn.MultiheadAttention(10, 4),
                  r"\[multihead_attention\] embed_dim must be a multiple of num_heads=4, got 10"),
    "ragged": (lambda: dm.tensor([[1, 2], [3]]), "inhomogeneous|equal lengths"),
    "large integers": (lambda: dm.tensor([2**40]), r"\[tensor\] integers must fit int32"),
    "text": (lambda: dm.tensor(["a"]), r"\[tensor\] cannot make a tensor"),
    "dtype": (lambda: dm.ones(2, dtype="float8"), r"\[dtype\] expected one of float32, float64.*got 'float8'"),
    "step": (lambda: dm.arange(0, 3, 0), r"\[arange\] step must not be 0"),
    "copy_": (lambda: dm.ones(2).copy_(dm.ones(3)), r"\[copy_\] value must have shape \(2,\), got \(3,\)"),
    "a list": (lambda: F.linear([1.0], dm.ones(1, 1)), r"\[linear\] x must be a Tensor, got list. Make one with"),
    "an array": (lambda: dm.nn.Linear(3, 2)(np.ones(3)), r"\[linear\] x must be a Tensor, got numpy.ndarray. Make one"),
    "an array as weight": (lambda: F.linear(dm.ones(3), np.ones((2, 3))), r"\[linear\] weight must be a Tensor, got"),
    "an array as operand": (lambda: dm.ones(2) * np.ones(2), r"\[mul\] operands must be .*, got numpy.ndarray. Make"),
    "arrays to cat": (lambda: dm.cat([np.ones(2)]), r"\[cat\] every input must be a Tensor, got numpy.ndarray"),
    "arrays to a norm": (lambda: F.layer_norm([[1.0]], (1,)), r"\[layer_norm\] x must be a Tensor, got list"),
    "an array as mask": (lambda: dm.ones(2).masked_fill([True], 1), r"\[masked_fill\] mask must be a Tensor, got list"),
    "from_numpy": (lambda: dm.from_numpy([1]), r"\[from_numpy\] array must be a NumPy array, got list"),
    "truth": (lambda: bool(dm.ones(3) > 0), r"\[bool\] the truth of a tensor of shape \(3,\) is ambiguous.*\.any\(\)"),
    "truth of nothing": (lambda: bool(dm.ones(0)), r"\[bool\] .* ambiguous: it has 0 elements"),
    "t": (lambda: dm.ones(2, 3, 4).t(), r"\[t\] x must have at most 2 dimensions.*\.mT"),
    "gather": (lambda: dm.ones(2, 3).gather(1, dm.ones(3, 3).int()), r"\[gather\] index must have 2 dimensions, none"),
    "one_hot": (lambda: F.one_hot(dm.ones(2), 3), r"\[one_hot\] indices must be int32, got float32"),
    "multinomial": (lambda: dm.multinomial(dm.ones(3), 4), r"\[multinomial\] num_samples must be from 0 to C=3, got 4"),
    "multinomial of ints": (lambda: dm.multinomial(dm.ones(3).int(), 1), r"\[multinomial\] probs must be floating"),
    "einsum of three": (lambda: dm.einsum("i,i,i", *[dm.ones(2)] * 3), r"\[einsum\] .*one or two tensors.* for 3"),
    "einsum ellipsis": (lambda: dm.einsum("...i->i", dm.ones(2)), r"\[einsum\] .*ellipsis"),
    "einsum diagonal": (lambda: dm.einsum("ii->i", dm.ones(2, 2)), r"\[einsum\] a letter must come once.*'ii'"),
    "einsum text": (lambda: dm.einsum("i1->i", dm.ones(2, 2)), r"\[einsum\] equation must read like"),
    "einsum result": (lambda: dm.einsum("ij->k", dm.ones(2, 2)), r"\[einsum\] letters of the result must be in an"),
    "einsum rank": (lambda: dm.einsum("ij->i", dm.ones(2)), r"\[einsum\] 'ij' names 2 dimensions.*\(2,\)"),
    "einsum size": (lambda: dm.einsum("ij,jk", dm.ones(2, 2), dm.ones(3, 2)), r"\[einsum\] 'j' must be one size"),
    "to a device": (lambda: dm.ones(2).to("cuda:0"), r"\[to\] target must be a dtype or a backend.*cuda:0.*set_b"),
    "module to a device": (lambda: dm.nn.Linear(1, 1).to("mps"), r"\[to\] target must be a dtype or a backend.*'mps'"),
    "to device=": (lambda: dm.ones(2).to(device="cuda"), r"\[to\] device must be given as backend=.*got 'cuda'"),
    "to a name": (lambda: dm.ones(2).to(kind="f"), r"\[to\] names must be backend and dtype, got kind"),
    "device=": (lambda: dm.zeros(2, device="cuda"), r"\[zeros\] device must be given as backend=.*set_backend"),
    "backend": (lambda: dm.ones(2, backend="tpu"), r"\[backend\] expected auto or one of cpu.*got 'tpu'"),
}


REFUSED: dict[str, tuple[Callable[[], object], str]] = {
    "Linear": (lambda: dm.nn.Linear(0, -2), r"\[linear\] in_features must be at least 1, got 0"),
    "Linear out": (lambda: dm.nn.Linear(3, 2.5), r"\[linear\] out_features must be an integer, got 2.5"),
    "Embedding": (lambda: dm.nn.Embedding(0, 4), r"\[embedding\] num_embeddings must be at least 1, got 0"),
    "LayerNorm": (lambda: dm.nn.LayerNorm(0), r"\[layer_norm\] normalized_shape must be at least 1, got 0"),
    "LayerNorm eps": (lambda: dm.nn.LayerNorm(2, eps=-1), r"\[layer_norm\] eps must be at least 0 and finite, got -1"),
    "RMSNorm": (lambda: dm.nn.RMSNorm(True), r"\[rms_norm\] dim must be an integer, got True"),
    "Dropout": (lambda: dm.nn.Dropout(2.0), r"\[dropout\] p must be in \[0, 1\], got 2.0"),
    "Attention": (lambda: dm.nn.MultiheadAttention(8, 0), r"\[multihead_attention\] num_heads must be at least 1"),
    "loss": (lambda: dm.nn.MSELoss("avg"), r"\[MSELoss\] reduction must be mean, sum or none, got 'avg'"),
    "smoothing": (lambda: dm.nn.CrossEntropyLoss(label_smoothing=2), r"label_smoothing must be in \[0, 1\], got 2"),
    "lr": (lambda: _adamw(lr=-1), r"\[optimizer\] lr must be at least 0 and finite, got -1"),
    "lr text": (lambda: _adamw(lr="1"), r"\[optimizer\] lr must be a number, got '1'"),
    "lr nan": (lambda: _adamw(lr=float("nan")), r"\[optimizer\] lr must be at least 0 and finite, got nan"),
    "eps": (lambda: _adamw(eps=-1e-8), r"\[optimizer\] eps must be at least 0"),
    "weight_decay": (lambda: _adamw(weight_decay=None), r"\[optimizer\] weight_decay must be a number, got None"),
    "betas": (lambda: _adamw(betas=(0.9, 1.0)), r"\[optimizer\] beta2 must be in \[0, 1\), got 1.0"),
    "one beta": (lambda: _adamw(betas=0.9), r"\[optimizer\] betas must be two numbers, got 0.9"),
    "group": (lambda: dm.optim.SGD([{"params": [_parameter()], "lr": -2}]), r"\[optimizer\] lr must be at least 0"),
    "momentum": (lambda: dm.optim.SGD([_parameter()], momentum=-1), r"\[optimizer\] momentum must be at least 0"),
    "a model": (lambda: dm.optim.SGD(dm.nn.Linear(1, 1)), r"\[optimizer\] .* got one Linear. Pass model.param"),
    "names": (lambda: dm.optim.SGD(["weight"]), r"\[optimizer\] params must hold parameters .*, got str"),
    "StepLR": (lambda: dm.optim.lr_scheduler.StepLR(_adamw(), 0), r"\[StepLR\] step_size must be at least 1, got 0"),
    "LambdaLR": (lambda: dm.optim.lr_scheduler.LambdaLR(_adamw(), []), r"a function for each of 1 groups, got 0"),
}


def _parameter() -> dm.nn.Parameter:
    return dm.nn.Parameter(dm.ones(2))


def _adamw(**settings: object) -> dm.optim.AdamW:
    return dm.optim.AdamW([_parameter()], **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", REFUSED)
def test_constructors_check_their_settings(name: str, cpu: None) -> None:
    attempt, message = REFUSED[name]
    with pytest.raises(DualmlError, match=message):
        attempt()


def test_a_name_that_is_not_there(cpu: None) -> None:
    """An AttributeError, as hasattr and getattr want it, that says what there is instead."""
    x = dm.ones(2)
    with pytest.raises(AttributeError, match=r"a Tensor has no attribute 'device'. A tensor has a backend"):
        x.device
    assert not hasattr(x, "no_such_name")
    with pytest.raises(DualmlError, match="has no attribute 'no_such_name'"):
        x.no_such_name


def test_ways_of_to(cpu: None) -> None:
    x, half = dm.ones(2), dm.ones(1, dtype=dm.half)
    for moved in (x.to(dm.half), x.to("cpu", dm.half), x.to(dtype="float16"), x.to(backend="cpu", dtype=half.dtype),
                  x.to(half), dm.nn.Linear(1, 1).to("cpu", dm.half).weight):
        assert (moved.dtype, moved.backend) == (dm.float16, "cpu")
    assert x.to(dm.float) is x
    assert (dm.long, dm.int, dm.double) == (dm.int32, dm.int32, dm.float64)


@pytest.mark.parametrize("name", MESSAGES)
def test_message(name: str, cpu: None) -> None:
    attempt, message = MESSAGES[name]
    with pytest.raises((ValueError, TypeError, DualmlError), match=message):
        attempt()


def test_our_errors_are_pythons_too() -> None:
    assert issubclass(ShapeError, ValueError)
    assert issubclass(DTypeError, TypeError)
    assert issubclass(BackendError, RuntimeError)
    assert issubclass(errors.OutOfMemoryError, MemoryError)
    assert all(issubclass(e, DualmlError) for _, e in inspect.getmembers(errors, inspect.isclass)
               if issubclass(e, Exception) and e.__module__ == errors.__name__)


# ---- backends -----------------------------------------------------------------------------------------------------

def test_dtypes_a_backend_lacks(backend: str) -> None:
    if backend == "cpu":
        return
    with pytest.raises(DTypeError, match=rf"backend {backend} on .* has no float64; it has .*float32"):
        dm.ones(2, dtype="float64")
    with pytest.raises(DTypeError, match="has no float64"):
        dm.ones(2).to(dm.float64)


def test_a_tensor_above_the_binding_limit() -> None:
    if "webgpu" not in runtime.backend_names():
        pytest.skip("webgpu is not there")
    limit = runtime.get("webgpu").device.limits["max-storage-buffer-binding-size"]
    with pytest.raises(LimitError, match=rf"a tensor of .* MiB is above .* limit of {limit >> 20} MiB. Use a smaller"):
        dm.empty(limit // 4 + 1, backend="webgpu")


def test_an_absent_backend_says_why_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent() -> Backend:
        raise BackendError("[absent] no such device. Buy one.")

    monkeypatch.setattr(sys.modules[__name__], "absent", absent, raising=False)
    monkeypatch.setitem(runtime._FACTORIES, "absent", (__name__, "absent"))
    for _ in range(2):
        with pytest.raises(BackendError, match=r"no such device\. Buy one"):
            dm.set_backend("absent")
    runtime._failed.pop("absent")


def test_choosing_backends(monkeypatch: pytest.MonkeyPatch) -> None:
    before = dm.get_backend()
    with dm.use_backend("cpu"):
        assert dm.ones(2).backend == "cpu"
        with pytest.raises(ZeroDivisionError), dm.use_backend("cpu"):
            1 / 0
        assert dm.get_backend() == "cpu"
    assert dm.get_backend() == before
    assert runtime.get("auto").name in ("cuda", "webgpu", "cpu")


def _run(code: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=os.environ | env, capture_output=True, text=True,
                          check=False)


def test_the_environment_chooses() -> None:
    done = _run("import dualml as dm; print(dm.ones(1).backend)", DUALML_BACKEND="cpu")
    assert done.stdout.strip() == "cpu", done.stderr
    done = _run("import dualml as dm; dm.ones(1)", DUALML_BACKEND="quantum")
    assert "expected auto or one of" in done.stderr


def test_check_finds_a_wrong_kernel() -> None:
    """DUALML_CHECK=1 runs the reference after every launch and names the first kernel that disagrees."""
    if "webgpu" not in runtime.backend_names():
        pytest.skip("webgpu is not there")
    code = ("import dualml as dm\nx = dm.ones(8, backend='webgpu')\n{}\nprint((x + x).sum().item())")
    assert _run(code.format(""), DUALML_CHECK="1").stdout.strip() == "16.0"
    broken = ("from dualml.ops import numpy_math\nreal = numpy_math.compile_expression\n"
              "from dualml.ops import elementwise\n"
              "elementwise.numpy_math.compile_expression = lambda e: real(e.replace('a + b', 'a + b + 1.0'))")
    done = _run(code.format(broken), DUALML_CHECK="1")
    assert "KernelError" in done.stderr
    assert "add_forward" in done.stderr


def test_flags_are_few_and_all_are_read() -> None:
    read = set()
    for path in (ROOT / "dualml").rglob("*.py"):
        read |= set(re.findall(r"DUALML_[A-Z_]+", path.read_text(encoding="utf-8")))
    assert read == set(FLAGS)
    assert len(FLAGS) <= 10


# ---- looking at tensors -------------------------------------------------------------------------------------------

def test_repr(cpu: None) -> None:
    assert repr(dm.tensor([1.0, 2.5])) == "tensor([1. , 2.5], backend='cpu')"
    assert "requires_grad=True" in repr(dm.ones(2, requires_grad=True))
    assert "grad_fn=<mul>" in repr(dm.ones(2, requires_grad=True) * 2)
    assert "dtype=dualml.float16" in repr(dm.ones(2).half())
    assert "..." in repr(dm.zeros(1000))


def test_to_python(backend: str) -> None:
    x = dm.tensor([[1.0, 2.0], [3.0, 4.0]])
    assert x.tolist() == [[1.0, 2.0], [3.0, 4.0]]
    assert (float(x[1, 0]), int(x[1, 1]), bool(x[0, 0] > 2), len(x)) == (3.0, 4, False, 2)
    assert [row.tolist() for row in x] == x.tolist()
    values = x.numpy()
    values[:] = 0
    assert x.sum().item() == 10.0, "numpy() is a copy"
    with pytest.raises(DTypeError, match="only an integer tensor can be an index"):
        [1, 2][x[0, 0]]
    assert ["a", "b"][dm.tensor([1])[0]] == "b"


def test_dlpack(cpu: None) -> None:
    x = dm.tensor([1.0, 2.0])
    np.testing.assert_array_equal(np.from_dlpack(x), [1.0, 2.0])
    y = dm.from_dlpack(np.arange(3, dtype=np.float32))
    assert y.tolist() == [0.0, 1.0, 2.0]
    if "webgpu" in runtime.backend_names():
        with pytest.raises(BackendError, match=r"memory of backend webgpu cannot be shared. Use .to\('cpu'\) first"):
            np.from_dlpack(dm.ones(2, backend="webgpu"))
