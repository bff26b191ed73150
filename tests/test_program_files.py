"""Programs in files: what is loaded goes on bit for bit without its Python code, and files that lie are refused."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dualml as dm
from dualml import nn, optim
from dualml.errors import CheckpointError, DTypeError, ShapeError
from dualml.extend import kernel, run
from dualml.safe_files import sha256
from tests.parity.modes import PRESENT

F = nn.functional
ROOT = Path(__file__).resolve().parents[1]
_CONTINUE = """
import sys, numpy as np, dualml as dm
data = np.load(sys.argv[3])
dm.manual_seed(99)                       # the program brings its own generator
program = dm.load_program(sys.argv[2], backend=sys.argv[1])
for x, y in zip(data["x"], data["y"]):
    found = program(x, y)
    print(found["loss"].item().hex(), found["norm"].item().hex())
assert "dualml.models" not in sys.modules
"""


class Training:
    """A network with dropout and clipping, captured."""

    def __init__(self, kind: Callable[..., optim.Optimizer] = optim.AdamW, **settings: Any) -> None:
        dm.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Dropout(0.3), nn.Linear(8, 3))
        self.optimizer = kind(self.model.parameters(), 1e-2, **settings)
        self.step: Any = dm.capture(self._step)
        self.rng = np.random.default_rng(5)
        for _ in range(5):
            self.step(*self.batch())

    def _step(self, x: dm.Tensor, y: dm.Tensor) -> dict[str, dm.Tensor]:
        loss = F.cross_entropy(self.model(x), y)
        self.optimizer.zero_grad()
        loss.backward()
        norm = optim.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        return {"loss": loss, "norm": norm}

    def batch(self) -> tuple[np.ndarray, np.ndarray]:
        return self.rng.standard_normal((5, 4)).astype(np.float32), self.rng.integers(0, 3, 5).astype(np.int32)


def _values(found: dict[str, dm.Tensor]) -> tuple[float, float]:
    return found["loss"].item(), found["norm"].item()


def test_another_process_goes_on_bit_for_bit(fast_backend: str, tmp_path: Path) -> None:
    training = Training()
    training.step.programs[0].save(tmp_path / "program")
    batches = [training.batch() for _ in range(6)]
    np.savez(tmp_path / "data.npz", x=np.stack([x for x, _ in batches]), y=np.stack([y for _, y in batches]))
    command = [sys.executable, "-c", _CONTINUE, fast_backend, str(tmp_path / "program"), str(tmp_path / "data.npz")]
    found = subprocess.run(command, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True,
                           text=True, timeout=120, check=False)
    assert found.returncode == 0, found.stderr
    lines = [tuple(map(float.fromhex, line.split())) for line in found.stdout.splitlines()]
    assert lines == [_values(training.step(*batch)) for batch in batches]


def test_on_another_backend(fast_backend: str, tmp_path: Path) -> None:
    training = Training()
    training.step.programs[0].save(tmp_path / "program")
    batches = [training.batch() for _ in range(3)]
    wanted = [_values(training.step(*batch)) for batch in batches]
    for other in PRESENT:
        program = dm.load_program(tmp_path / "program", backend=other)
        with dm.use_backend(other):
            found = [_values(program(*batch)) for batch in batches]
        np.testing.assert_allclose(found, wanted, 1e-5)


@pytest.mark.parametrize(("kind", "settings"), [(optim.SGD, {"momentum": 0.9, "nesterov": True}), (optim.SGD, {}),
                                                (optim.Adam, {"betas": (0.8, 0.9)})])
def test_optimizers_and_their_rates(kind: Any, settings: dict[str, Any], fast_backend: str, tmp_path: Path) -> None:
    training = Training(kind, **settings)
    training.step.programs[0].save(tmp_path / "program")
    loaded = dm.load_program(tmp_path / "program")
    for rate in (1e-2, 1e-3, 5e-4):
        training.optimizer.param_groups[0]["lr"] = loaded.optimizers[0]["lr"] = rate
        batch = training.batch()
        assert _values(loaded(*batch)) == _values(training.step(*batch))
    loaded.save(tmp_path / "again")
    again, batch = dm.load_program(tmp_path / "again"), training.batch()
    assert again.optimizers[0]["lr"] == 5e-4
    assert _values(again(*batch)) == _values(loaded(*batch)) == _values(training.step(*batch))


def test_what_is_stored_differently(fast_backend: str, tmp_path: Path) -> None:
    """Bools (four bytes on a GPU, one on the host), broadcasts, copies, constants, and several results."""
    weight = dm.tensor(np.arange(12, dtype=np.float32).reshape(3, 4))

    @dm.capture
    def step(x: dm.Tensor, unused: dm.Tensor) -> Any:
        mask = (x > 0) & (x < dm.tensor([1.0, 2.0, 0.5]).reshape(3, 1))
        y = dm.where(mask, x * weight, x.clone() / -0.0)
        return y, [mask, {"sum": y.sum(0), "none": None, "two": 2}]

    rng = np.random.default_rng(0)
    given = rng.standard_normal((3, 4)).astype(np.float32), np.zeros((2, 2), np.int32)
    for _ in range(3):
        step(*given)
    step.programs[0].save(tmp_path / "program")
    step.programs[0].save(tmp_path / "program")  # a program may be replaced
    assert [p.name for p in tmp_path.iterdir()] == ["program"]
    wanted = step(*given)
    for other in {fast_backend, "cpu"}:
        program = dm.load_program(tmp_path / "program", other)
        found = program(dm.tensor(given[0], backend=other), given[1])
        assert (found[1][1]["none"], found[1][1]["two"]) == (None, 2)
        np.testing.assert_array_equal(found[1][0].numpy(), wanted[1][0].numpy())
        np.testing.assert_allclose(found[0].numpy(), wanted[0].numpy(), 1e-6)
        np.testing.assert_allclose(found[1][1]["sum"].numpy(), wanted[1][1]["sum"].numpy(), 1e-5)
    classes = {b["class"] for b in json.loads((tmp_path / "program" / "program.json").read_text())["buffers"]}
    assert classes == {"weight", "input", "output", "constant", "temporary"}


def test_arguments_are_checked(cpu: None, tmp_path: Path) -> None:
    Training().step.programs[0].save(tmp_path / "program")
    program, (x, y) = dm.load_program(tmp_path / "program"), Training().batch()
    with pytest.raises(ShapeError, match=r"\[_step\] takes 2 tensors, got 1"):
        program(x)
    with pytest.raises(ShapeError, match=r"argument 0 must have shape \(5, 4\), got \(4, 4\)"):
        program(x[:4], y)
    with pytest.raises(DTypeError, match=r"argument 1 must be int32, got float32"):
        program(x, y.astype(np.float32))


# ---- what cannot be saved --------------------------------------------------------------------------------------------

@kernel("x[N] -> out[N]", groups="N", wgsl="mine", cuda="mine")
def doubled_elsewhere(x: np.ndarray) -> np.ndarray:
    return 2 * x


def _captured(work: Callable[[dm.Tensor], Any]) -> Any:
    step = dm.capture(work)
    for _ in range(2):
        step(dm.ones(3))
    return step.programs[0]


def test_what_a_file_cannot_hold(cpu: None, tmp_path: Path) -> None:
    layer = nn.Linear(3, 3)
    optimizer = optim.SGD(layer.parameters())
    schedule = optim.LRScheduler(optimizer, lambda step: 0.1)

    def scheduled(x: dm.Tensor) -> Any:
        schedule.step()
        return x + 1
    with pytest.raises(CheckpointError, match=r"the step calls LRScheduler, which is Python code"):
        _captured(scheduled).save(tmp_path / "program")
    with pytest.raises(CheckpointError, match=r"kernel doubled_elsewhere is declared outside dualml"):
        _captured(lambda x: dm.Tensor(run(doubled_elsewhere, x._array))).save(tmp_path / "program")
    pair = namedtuple("pair", "a b")
    with pytest.raises(CheckpointError, match=r"the step returns .* which no file can hold"):
        _captured(lambda x: pair(x + 1, x)).save(tmp_path / "program")
    assert not any(tmp_path.iterdir())
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "mine.txt").write_text("mine")
    with pytest.raises(CheckpointError, match=r"must be a new folder, or one of a program"):
        _captured(lambda x: x + 1).save(tmp_path / "notes")
    assert (tmp_path / "notes" / "mine.txt").read_text() == "mine"


def test_a_seed_set_after_capture_counts(fast_backend: str) -> None:
    """A captured step draws what an eager one would, also from a stream that was started anew since."""
    def work(x: dm.Tensor) -> dm.Tensor:
        return F.dropout(x, 0.5)
    captured, x = dm.capture(work), dm.ones(64)
    for _ in range(3):
        captured(x)
    dm.manual_seed(11)
    found = [captured(x).tolist() for _ in range(3)]
    dm.manual_seed(11)
    assert found == [work(x).tolist() for _ in range(3)]


# ---- files that lie --------------------------------------------------------------------------------------------------

Change = Callable[[dict[str, Any]], Any]


def _first(data: dict[str, Any], kernel: str) -> dict[str, Any]:
    """The first launch of a kernel."""
    number = next(i for i, k in enumerate(data["kernels"]) if k["name"] == kernel)
    return next(e for e in data["launches"] if e.get("kernel") == number)


def _gelu(data: dict[str, Any]) -> dict[str, Any]:
    return next(k for k in data["kernels"] if k["name"] == "gelu_forward")


def _buffer(data: dict[str, Any], kind: str) -> dict[str, Any]:
    return next(b for b in data["buffers"] if b["class"] == kind)


def _number(data: dict[str, Any], kind: str) -> int:
    return data["buffers"].index(_buffer(data, kind))


LIES: dict[str, tuple[Change, str]] = {
    "format": (lambda d: d.update(format=1), r"format must be 3, got 1\. .* save it with this one"),
    "more fields": (lambda d: d.update(code="import os"), "fields must be"),
    "fewer fields": (lambda d: d.pop("random"), "fields must be"),
    "name": (lambda d: d.update(name="a\x1b[2J"), "name must be a short text"),
    "kernels are no list": (lambda d: d.update(kernels={}), "kernels: must be a list"),
    "unknown kernel": (lambda d: d["kernels"][0].update(name="os.system"), r"'os\.system' is unknown to this version"),
    "kernel of fusion": (lambda d: d["kernels"].append({"name": "sum_jobs"}), "what loading makes of others"),
    "kernel without a name": (lambda d: d["kernels"].append(3), "kernel .*: kernel '3' has no name"),
    "expression with a call": (lambda d: _gelu(d).update(expression="open(a)"), "uses 'open', which is no operand"),
    "expression with a dot": (lambda d: _gelu(d).update(expression="a.real"), r"has '\.real' in its expression"),
    "expression with a bracket": (lambda d: _gelu(d).update(expression="[a][0]"), "which is no arithmetic"),
    "expression with a string": (lambda d: _gelu(d).update(expression="'a' * 9"), "which is no arithmetic"),
    "expression with lambda": (lambda d: _gelu(d).update(expression="lambda a"), "uses 'lambda'"),
    "expression with a power": (lambda d: _gelu(d).update(expression="9**9**9 * a"), "is no arithmetic"),
    "expression with a comment": (lambda d: _gelu(d).update(expression="a // 2"), "is no arithmetic"),
    "expression with a brace": (lambda d: _gelu(d).update(expression="a; } fn f() {"), "is no arithmetic"),
    "expression too long": (lambda d: _gelu(d).update(expression="a" + "+a" * 9000), "is no arithmetic"),
    "expression too deep": (lambda d: _gelu(d).update(expression="(" * 99 + "a" + ")" * 99), "deeper than 60"),
    "expression cut": (lambda d: _gelu(d).update(expression="a +"), "an expression that is none"),
    "expression is a number": (lambda d: _gelu(d).update(expression=3), "is no arithmetic"),
    "operand twice": (lambda d: _gelu(d)["operands"].append(_gelu(d)["operands"][0]), "name its operands apart"),
    "operand of a keyword": (lambda d: _gelu(d)["operands"][0].__setitem__(0, "for"), "name its operands apart"),
    "operand of a function": (lambda d: _gelu(d)["operands"][0].__setitem__(0, "exp"), "name its operands apart"),
    "operand of a type": (lambda d: _gelu(d)["operands"][0].__setitem__(1, "ptr"), "operands of f32, i32 or bool"),
    "strides below 0": (lambda d: _gelu(d)["operands"][0].__setitem__(3, [-1]), "strides of a that cannot be"),
    "strides too many": (lambda d: _gelu(d)["operands"][0].__setitem__(3, [1, 1]), "a stride for each of 1 sizes"),
    "inner sizes of 0": (lambda d: _gelu(d).update(inner=[0]), "inner sizes from 1"),
    "result": (lambda d: _gelu(d).update(result="f64"), "a result F or bool"),
    "kernel number": (lambda d: d["launches"][0].update(kernel=99), "launch 0: kernel 99 is not there"),
    "kernel number below 0": (lambda d: d["launches"][0].update(kernel=-1), "kernel must be a whole number"),
    "dims missing": (lambda d: _first(d, "matmul")["dims"].pop("M"), "matmul must have dims"),
    "dims too many": (lambda d: _first(d, "matmul")["dims"].update(X=1), "matmul must have dims"),
    "dims below 0": (lambda d: _first(d, "matmul")["dims"].update(M=-1), "matmul has M -1, which is no uint32"),
    "dims above u32": (lambda d: _first(d, "matmul")["dims"].update(M=2**32), "which is no uint32"),
    "dims of text": (lambda d: _first(d, "matmul")["dims"].update(M="5"), "matmul has M 5, which is no uint32"),
    "dims of truth": (lambda d: _first(d, "matmul")["dims"].update(M=True), "matmul has M True"),
    "dims that lie": (lambda d: _first(d, "matmul")["dims"].update(BA=2, B=2), "bound where the dims say"),
    "a product that is none": (lambda d: _first(d, "matmul")["dims"].update(M=6), "that do not make 1x6x8"),
    "a product of other sides": (lambda d: _first(d, "matmul")["dims"].update(ta=1), "that do not make 1x5x8"),
    "huge dims": (lambda d: _first(d, "adamw")["dims"].update(N=2**32 - 1), "bound where the dims say 4294967295"),
    "scalar of text": (lambda d: _first(d, "dropout_forward")["dims"].update(scale="x"), "which is no float32"),
    "scalar above float32": (lambda d: _first(d, "dropout_forward")["dims"].update(scale=1e39), "no float32"),
    "types missing": (lambda d: _first(d, "matmul").update(types={}), "matmul must have types for F"),
    "types unknown": (lambda d: _first(d, "matmul").update(types={"F": "float9"}), "expected one of float32"),
    "types that differ": (lambda d: _first(d, "gelu_forward").update(types={"F": "float16"}), "float32, but used as"),
    "buffer number": (lambda d: d["launches"][0]["buffers"][0].__setitem__(0, 10**6), "buffer 1000000 is not there"),
    "offset below 0": (lambda d: d["launches"][0]["buffers"][0].__setitem__(1, -64), "must be a whole number"),
    "offset too far": (lambda d: d["launches"][0]["buffers"][0].__setitem__(1, 64), "are asked for, which has"),
    "offset unaligned": (lambda d: (d["buffers"][d["launches"][0]["buffers"][0][0]].update(size=99),
                                    d["launches"][0]["buffers"][0].__setitem__(1, 1)), "is not on 256 bytes"),
    "buffers missing": (lambda d: d["launches"][0]["buffers"].pop(), "must have 4 buffers"),
    "place of two": (lambda d: d["launches"][0]["buffers"][0].pop(), r"must be \[buffer, offset, count\]"),
    "writes to an input": (lambda d: d["buffers"][_first(d, "gelu_forward")["buffers"][1][0]].update(
        {"class": "input"}), "is written to, but is a input"),
    "reads what it writes": (lambda d: _first(d, "gelu_forward").update(buffers=[
        _first(d, "gelu_forward")["buffers"][1]] * 2), "gelu_forward reads from a buffer and writes to it"),
    "writes nothing": (lambda d: d["launches"].append(_first(d, "gelu_forward") | {"dims": {"N": 0}, "buffers": [
        [n, 0, 0] for n, _, _ in _first(d, "gelu_forward")["buffers"]]}), "gelu_forward writes nothing"),
    "no gradient of a loss": (lambda d: (_first(d, "cross_entropy_backward")["dims"].update(D=0), _first(
        d, "cross_entropy_backward")["buffers"][3].__setitem__(2, 0)), "has 0 gradients for 5 rows"),
    "more classes than logits": (lambda d: _first(d, "cross_entropy_forward")["dims"].update(V=10**6),
                                 "has 1000000 classes in rows of"),
    "copy onto itself": (lambda d: d["launches"].append({"copy": [[_number(d, "temporary"), 0, 1]] * 2, "line": ""}),
                         "to another buffer"),
    "copy of two dtypes": (lambda d: d["launches"].append({"copy": [
        [_number(d, "random"), 0, 1], [_number(d, "temporary"), 0, 1]], "line": ""}), "elements of one dtype"),
    "copy of three": (lambda d: d["launches"].append({"copy": [1, 2, 3], "line": ""}), "launch .*: too many values"),
    "launch of text": (lambda d: d["launches"].__setitem__(0, "rm"), "must have kernel, types, dims, buffers"),
    "line with an escape": (lambda d: d["launches"][0].update(line="\x1b"), "line must be a short text"),
    "buffer's class": (lambda d: d["buffers"][0].update({"class": "host"}), "buffer 0: must have size, dtype and a"),
    "buffer's dtype": (lambda d: d["buffers"][0].update(dtype="object"), "expected one of float32"),
    "buffer's size": (lambda d: d["buffers"][0].update(size=2.5), "size must be a whole number"),
    "buffer is too small": (lambda d: d["buffers"][0].update(size=3), "are asked for, which has 3"),
    "state is weight": (lambda d: _buffer(d, "state").update({"class": "weight"}), "is written to, but is a weight"),
    "state is temporary": (lambda d: _buffer(d, "state").update({"class": "temporary"}), "arenas: every temporary"),
    "state of another size": (lambda d: _buffer(d, "state").update(size=10**4), "tensors.safetensors has float32"),
    "weights not in the file": (lambda d: d["buffers"].append({"class": "weight", "dtype": "float32", "size": 1}),
                                "must hold"),
    "idle temporary": (lambda d: d["buffers"].append({"class": "temporary", "dtype": "float32", "size": 1}),
                       "every temporary must be used"),
    "huge output": (lambda d: d["buffers"].append({"class": "output", "dtype": "float32", "size": 2**50}),
                    "asks for 4,503,599,627,.* bytes beside its tensors"),
    "two generators": (lambda d: d["buffers"].append({"class": "random", "dtype": "uint32", "size": 4}),
                       "random must name the one buffer"),
    "generator's seed": (lambda d: d["random"].update(seed=2**64), "seed must be a whole number"),
    "generator's words": (lambda d: d["random"].update(words=-1), "words must be a whole number"),
    "input's shape": (lambda d: d["inputs"][0].update(shape=[5, 5]), "does not fit buffer"),
    "input twice": (lambda d: d["inputs"].append(d["inputs"][0]), "does not fit buffer"),
    "input missing": (lambda d: d["inputs"].pop(), "every buffer of class input must be an input"),
    "output's place": (lambda d: d["outputs"][0].update(offset=7), "does not fit buffer"),
    "output is temporary": (lambda d: d["outputs"][0].update(buffer=_number(d, "temporary")), "does not fit buffer"),
    "returns too many": (lambda d: d.update(returns={"tensor": 9}), "output 9 is not there, of 2"),
    "returns nonsense": (lambda d: d.update(returns={"call": "f"}), "returns has 'call', which is nothing"),
    "arena too small": (lambda d: d["arenas"]["sizes"].__setitem__(0, 1), "cannot lie at"),
    "arenas overlap": (lambda d: [p.__setitem__(1, 0) for p in d["arenas"]["places"].values()], "cannot lie at"),
    "arena missing": (lambda d: d["arenas"]["sizes"].clear(), "arenas: "),
    "update of a class": (lambda d: d["updates"][0].update(optimizer="Popen"), "must be an optimizer of SGD, Adam"),
    "update of a weight": (lambda d: d["updates"][0].update(buffer=0), "buffer 0 is no setting"),
    "update without lr": (lambda d: d["updates"][0]["settings"].pop("lr"), "must have steps and settings lr"),
    "update with text": (lambda d: d["updates"][0]["settings"].update(lr="1"), "AdamW has lr 1"),
    "update of beta 1": (lambda d: d["updates"][0]["settings"].update(betas=[1.0, 0.9]), "no finite numbers"),
    "steps below 0": (lambda d: d["updates"][0].update(steps=-5), "must have steps and settings"),
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("programs") / "program"
    with dm.use_backend("cpu"):
        Training().step.programs[0].save(path)
    return path


@pytest.mark.parametrize("lie", LIES)
def test_files_that_lie_are_refused(lie: str, saved: Path, tmp_path: Path, cpu: None) -> None:
    change, message = LIES[lie]
    data = copy.deepcopy(json.loads((saved / "program.json").read_text()))
    change(data)
    (tmp_path / "program.json").write_text(json.dumps(data))
    (tmp_path / "tensors.safetensors").write_bytes((saved / "tensors.safetensors").read_bytes())
    with pytest.raises(CheckpointError, match=message):
        dm.load_program(tmp_path)


def _sabotaged(work: Callable[[dm.Tensor], Any], path: Path, change: Change) -> Path:
    """A captured step's file with something changed."""
    _captured(work).save(path)
    data = json.loads((path / "program.json").read_text())
    change(data)
    (path / "program.json").write_text(json.dumps(data))
    return path


def _broadcast(data: dict[str, Any]) -> None:
    operand = next(o for k in data["kernels"] for o in k.get("operands", []) if o[3])
    operand[3] = [10**6, *operand[3][1:]]


ELSEWHERE: dict[str, tuple[Callable[[dm.Tensor], Any], Change, str]] = {
    "broadcast": (lambda x: x.reshape(3, 1) * dm.ones(4), _broadcast, r"mul_forward of \w+ reaches elements 0 to"),
    "gather": (lambda x: x.flip(0) + 1, lambda d: d["launches"][0]["dims"].update(start=9), "strided_.* reaches"),
    "slice": (lambda x: x[1:] + 1, lambda d: d["launches"][0]["dims"].update(start=2), "strided_.* reaches"),
    "negative": (lambda x: x[1:] + 1, lambda d: d["launches"][0]["dims"].update(s0=-9, s5=-9), "strided_.* reaches"),
}


@pytest.mark.parametrize("name", ELSEWHERE)
def test_strides_that_lead_elsewhere(name: str, cpu: None, tmp_path: Path) -> None:
    work, change, message = ELSEWHERE[name]
    with pytest.raises(CheckpointError, match=message):
        dm.load_program(_sabotaged(work, tmp_path / "program", change))
    assert _sabotaged(work, tmp_path / "right", lambda data: None).is_dir()
    dm.load_program(tmp_path / "right")


def test_other_tensors_are_refused(saved: Path, tmp_path: Path, cpu: None) -> None:
    with pytest.raises(CheckpointError, match=r"does not exist"):
        dm.load_program(tmp_path / "nothing")
    data = json.loads((saved / "program.json").read_text())
    tensors = bytearray((saved / "tensors.safetensors").read_bytes())
    tensors[-1] ^= 1
    (tmp_path / "tensors.safetensors").write_bytes(tensors)
    (tmp_path / "program.json").write_text(json.dumps(data))
    with pytest.raises(CheckpointError, match=r"tensors.safetensors is not the file that belongs to it"):
        dm.load_program(tmp_path)
    (tmp_path / "tensors.safetensors").write_bytes(b"\x80\x04pickle")
    data["tensors"] = sha256(tmp_path / "tensors.safetensors")
    (tmp_path / "program.json").write_text(json.dumps(data))
    with pytest.raises(CheckpointError, match=r"pickle"):
        dm.load_program(tmp_path)
    (tmp_path / "program.json").write_text("[" * 100_000)
    with pytest.raises(CheckpointError, match=r"must hold JSON"):
        dm.load_program(tmp_path)
