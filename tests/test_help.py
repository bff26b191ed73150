"""What a session at the prompt shows: help() of every public name, repr of what has settings."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import dualml as dm
from dualml.tensor_docs import SENTENCES

PUBLIC = (dm, dm.functional, dm.nn, dm.nn.init, dm.nn.utils, dm.optim, dm.amp, dm.autograd, dm.errors)


def _names(module: ModuleType) -> list[str]:
    found = getattr(module, "__all__", None)
    return found or [n for n, v in vars(module).items() if n[0] != "_" and getattr(v, "__module__", "") ==
                     module.__name__ and callable(v)]


@pytest.mark.parametrize("module", PUBLIC, ids=lambda m: m.__name__)
def test_functions_and_classes(module: ModuleType) -> None:
    names = _names(module)
    assert names
    assert not [n for n in names if not inspect.getdoc(getattr(module, n))]


@pytest.mark.parametrize("kind", [dm.Tensor, dm.nn.Parameter, dm.nn.Module, dm.nn.Linear, dm.optim.Optimizer,
                                  dm.optim.AdamW, dm.optim.LRScheduler], ids=lambda c: c.__name__)
def test_members(kind: type[Any]) -> None:
    public = [n for n in dir(kind) if not n.startswith("_")]
    assert not [n for n in public if not inspect.getdoc(inspect.getattr_static(kind, n))]


def test_functions_have_the_methods_sentences() -> None:
    assert dm.sum.__doc__ == dm.Tensor.sum.__doc__ == SENTENCES["sum"]


def test_no_member_is_described_twice() -> None:
    """Those of the table have no docstring of their own, which it would hide."""
    tree = ast.parse(Path(inspect.getfile(dm.Tensor)).read_text(encoding="utf-8"))
    own = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and ast.get_docstring(node)}
    assert not own & SENTENCES.keys()


def test_optimizers_show_their_settings(cpu: None) -> None:
    """In PyTorch's form."""
    x, y = dm.nn.Parameter(dm.ones(1)), dm.nn.Parameter(dm.ones(1))
    made = dm.optim.SGD([{"params": [x]}, {"params": [y], "lr": 0.5}], lr=0.1)
    settings = "    dampening: 0.0\n    lr: {}\n    momentum: 0.0\n    nesterov: False\n    weight_decay: 0.0\n"
    assert repr(made) == (f"SGD (\nParameter Group 0\n{settings.format(0.1)}Parameter Group 1\n{settings.format(0.5)})")


def test_captured_steps_show_their_programs(cpu: None) -> None:
    @dm.capture
    def double(x: dm.Tensor) -> dm.Tensor:
        return x * 2
    assert repr(double) == "<dm.capture of double: no program yet, the first calls record it>"
    for size in (3, 3, 4, 4):
        double(dm.ones(size))
    assert repr(double) == "<dm.capture of double: 1 launch on cpu; 1 launch on cpu>"
