"""dm.save and dm.load: what goes in comes out, on every backend; a file is there whole or not at all."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
import safetensors.numpy

import dualml as dm
from dualml import saving
from dualml.errors import CheckpointError
from dualml.safe_files import save_tensors


def same(a: Any, b: Any) -> bool:
    """Equal in values, types and nesting."""
    if isinstance(a, dm.Tensor):
        return isinstance(b, dm.Tensor) and a.dtype is b.dtype and np.array_equal(a.numpy(), b.numpy())
    if isinstance(a, dict):
        return isinstance(b, dict) and list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and (a == b or (a != a and b != b))


def trained(steps: int = 3) -> tuple[dm.nn.Module, dm.optim.Optimizer]:
    dm.manual_seed(1)
    model = dm.nn.Sequential(dm.nn.Linear(6, 5), dm.nn.GELU(), dm.nn.Linear(5, 2))
    optimizer = dm.optim.AdamW(model.parameters(), lr=0.01)
    return (step(model, optimizer, steps), optimizer)


def step(model: dm.nn.Module, optimizer: dm.optim.Optimizer, count: int) -> dm.nn.Module:
    for number in range(count):
        optimizer.zero_grad()
        model(dm.ones(3, 6) * (number + 1)).square().mean().backward()
        optimizer.step()
    return model


def test_everything_comes_back(fast_backend: str, tmp_path: Path) -> None:
    tensors = {"matrix": dm.randn(3, 4), "half": dm.randn(5).half(), "whole": dm.arange(7), "flags": dm.arange(3) > 1,
               "number": dm.tensor(2.5), "nothing": dm.zeros(0, 3), "": dm.ones(1)}
    given = {"tensors": tensors, 3: [1, (2.5, None, True), "text", -float("inf"), float("nan")], "empty": {},
             "__metadata__": dm.ones(2), "a.b": dm.ones(1), "a": {"b": dm.zeros(1)}, "numpy": np.float32(0.5)}
    dm.save(given, tmp_path / "x.safetensors")
    found = dm.load(tmp_path / "x.safetensors")
    assert same({**given, "numpy": 0.5}, found)
    assert found["tensors"]["matrix"].backend == fast_backend
    assert os.listdir(tmp_path) == ["x.safetensors"]


def test_bfloat16(cpu: None, tmp_path: Path) -> None:
    given = dm.randn(5).bfloat16()
    dm.save(given, tmp_path / "x.safetensors")
    assert same(given, dm.load(tmp_path / "x.safetensors"))


def test_training_goes_on_where_it_stopped(fast_backend: str, tmp_path: Path) -> None:
    model, optimizer = trained()
    dm.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": 3}, tmp_path / "x.safetensors")
    step(model, optimizer, 2)
    again, resumed = trained(0)
    state = dm.load(tmp_path / "x.safetensors")
    again.load_state_dict(state["model"])
    resumed.load_state_dict(state["optimizer"])
    step(again, resumed, 2)
    assert state["step"] == 3
    assert same(model.state_dict(), again.state_dict())
    assert same(optimizer.state_dict(), resumed.state_dict())


def test_on_another_backend(cpu: None, tmp_path: Path) -> None:
    if "webgpu" not in dm.runtime.backend_names():
        pytest.skip("there is one backend")
    dm.save({"x": dm.arange(3)}, tmp_path / "x.safetensors")
    assert dm.load(tmp_path / "x.safetensors", backend="cpu")["x"].backend == "cpu"
    with pytest.raises(dm.errors.BackendError, match="got 'tpu'"):
        dm.load(tmp_path / "x.safetensors", backend="tpu")


def test_other_programs_read_it(cpu: None, tmp_path: Path) -> None:
    """A state_dict's keys are the file's names, and a file of another program is a dict."""
    model, _ = trained(0)
    dm.save(model.state_dict(), tmp_path / "x.safetensors")
    there = safetensors.numpy.load_file(tmp_path / "x.safetensors")
    assert there.keys() == model.state_dict().keys()
    assert np.array_equal(there["0.weight"], model.state_dict()["0.weight"].numpy())
    safetensors.numpy.save_file({"a": np.arange(3), "b": np.ones((2, 2), np.float32)}, tmp_path / "y.safetensors")
    assert same({"a": dm.arange(3), "b": dm.ones(2, 2)}, dm.load(tmp_path / "y.safetensors"))


def test_shared_tensors_are_stored_once(cpu: None, tmp_path: Path) -> None:
    x = dm.randn(4)
    dm.save({"embedding": x, "head": x.detach(), "rows": x.reshape(2, 2)}, tmp_path / "x.safetensors")
    with safetensors.safe_open(tmp_path / "x.safetensors", "np") as file:
        assert sorted(file.keys()) == ["embedding", "rows"]
    found = dm.load(tmp_path / "x.safetensors")
    assert found["embedding"] is found["head"]


@pytest.mark.parametrize(("obj", "message"), [
    (dm.nn.GELU(), r"\[save\] obj must be a tensor, .*, got GELU. Save state_dict\(\)"),
    ({"a": [1, {"b": object()}]}, r"\[save\] a.1.b must be .*, got object"),
    ({"a": np.ones(2)}, r"\[save\] a must be .*, got ndarray"),
    ({(1, 2): 3}, r"keys must be texts or integers, got tuple"),
    ({"a": {1, 2}}, r"\[save\] a must be .*, got set"),
])
def test_what_cannot_be_saved(obj: Any, message: str, cpu: None, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=message):
        dm.save(obj, tmp_path / "x.safetensors")
    assert os.listdir(tmp_path) == []


def test_endless_nesting(cpu: None, tmp_path: Path) -> None:
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(CheckpointError, match="must nest at most 64 deep"):
        dm.save(endless, tmp_path / "x.safetensors")


def test_a_full_disk_leaves_the_file_before(cpu: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever call the disk refuses."""
    path = tmp_path / "x.safetensors"
    dm.save({"step": 1}, path)

    def refuse(*args: Any) -> None:
        raise OSError(28, "No space left on device")
    for place, name in ((saving, "save_tensors"), (saving.os, "replace")):
        with monkeypatch.context() as patch:
            patch.setattr(place, name, refuse)
            with pytest.raises(CheckpointError, match=r"cannot be written: No space left on device"):
                dm.save({"step": 2}, path)
        assert dm.load(path) == {"step": 1}
        assert os.listdir(tmp_path) == ["x.safetensors"]


def test_pickles(cpu: None, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"must not end in .pt, .* This is a safetensors file: model.safetensors"):
        dm.save({}, tmp_path / "model.pt")
    for name in ("model.pt", "model.safetensors"):
        (tmp_path / name).write_bytes(b"\x80\x04\x95" + bytes(40))
        with pytest.raises(CheckpointError, match="is a pickle file"):
            dm.load(tmp_path / name)
    with pytest.raises(CheckpointError, match="does not exist"):
        dm.load(tmp_path / "none.safetensors")


@pytest.mark.parametrize(("structure", "message"), [
    ("{", "must hold JSON"),
    ("[" * 100_000, "must hold JSON"),
    ('{"list": ' * 100 + "1" + "}" * 100, "nests more than 64 deep|nothing that save writes"),
    ('{"list": [' * 100 + "1" + "]}" * 100, "nests more than 64 deep"),
    ("[1]", "nothing that save writes"),
    ('{"tensor": "y"}', "must hold a tensor 'y'"),
    ('{"tensor": 5}', "nothing that save writes"),
    ('{"tensor": "x", "list": []}', "nothing that save writes"),
    ('{"dict": [["a"]]}', "nothing that save writes"),
    ('{"dict": [[[1], 2]]}', "nothing that save writes"),
    ('{"dict": {"a": 1}}', "nothing that save writes"),
    ('{"list": "abc"}', "nothing that save writes"),
    ('{"float": "1; import os"}', "nothing that save writes"),
    ('{"float": ["inf"]}', "nothing that save writes"),
    ('{"object": "os.system"}', "nothing that save writes"),
])
def test_hostile_structures(structure: str, message: str, cpu: None, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_tensors(path, {"x": np.ones(2, np.float32)}, {"dualml": structure})
    with pytest.raises(CheckpointError, match=message) as caught:
        dm.load(path)
    assert str(path) in str(caught.value)


def test_the_form_on_disk(cpu: None, tmp_path: Path) -> None:
    """As the module says, so that other programs can rely on it."""
    dm.save({"a": (dm.ones(1), [1, float("inf")]), 2: None}, tmp_path / "x.safetensors")
    with safetensors.safe_open(tmp_path / "x.safetensors", "np") as file:
        assert json.loads(file.metadata()["dualml"]) == {
            "dict": [["a", {"tuple": [{"tensor": "a.0"}, {"list": [1, {"float": "inf"}]}]}], [2, None]]}
