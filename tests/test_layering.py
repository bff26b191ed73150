"""The architecture, as imports: each layer sees only those below it, and each library is imported in one place."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1] / "dualml"

# From the ground up. A module may import from lower lines, and from its own package; on one line, only the latter.
LAYERS = (
    "errors config words",
    "dtypes dims safe_files",
    "kernel",
    "backends",
    "runtime",
    "array",
    "random debug",
    "ops",
    "tape",
    "tensor_docs tensor_methods",
    "tensor",
    "autograd creation indexing",
    "functional tensor_functions einsum saving",
    "amp",
    "nn",
    "optim",
    "programs",
    "timeline",
    "profile memory",
    "__init__",
    "checkpoints text",
    "data",
    "models",
    "train",
    "cli extend",
    "__main__",
)
RANK = {name: rank for rank, line in enumerate(LAYERS) for name in line.split()}

# Imports inside functions that point up, each because the two are one idea in two files.
UPWARD = {
    ("tape", "tensor"): "the tape wraps what ops return into Tensors",
    ("tensor_methods", "tensor"): "the longer methods of Tensor are a page of their own",
    ("nn", "optim"): "nn.utils has PyTorch's second name of a function of optim",
    ("tensor", "indexing"): "x[key] is a page of its own",
}
ONE_PLACE = {
    "wgpu": "backends/webgpu",
    "cupy": "backends/cuda.py",
    "jinja2": "backends/sources.py",
    "matplotlib": "train/plot.py timeline.py",
    "tensorboardX": "train/tensorboard.py",
    "typer": "cli/",
    "rich": "cli/ train/",
    "safetensors": "safe_files.py",
    "regex": "text/",
    "huggingface_hub": "models/hub.py",
}
NEVER = ("torch", "transformers", "tinygrad", "tests", "benchmarks", "examples")


def _modules() -> list[Path]:
    return sorted(ROOT.rglob("*.py"))


def _imports(path: Path) -> Iterator[tuple[int, str, bool]]:
    """Line, absolute module name, and whether the import runs when the module is loaded."""
    package = ("dualml", *path.relative_to(ROOT).parent.parts)
    tree = ast.parse(path.read_text(encoding="utf-8"))
    loaded = set(map(id, tree.body))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name, id(node) in loaded) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = (*package[:len(package) - node.level + 1], node.module) if node.level else (node.module,)
            name = ".".join(part for part in base if part)
            if name == "dualml":  # from .. import nn, tape: each name is a module
                for alias in node.names:
                    part = alias.name if alias.name in RANK else "__init__"
                    yield node.lineno, f"dualml.{part}", id(node) in loaded
            else:
                yield node.lineno, name, id(node) in loaded


def _layer(path: Path) -> str:
    return path.relative_to(ROOT).with_suffix("").parts[0]


def test_every_module_has_a_layer() -> None:
    assert {_layer(p) for p in _modules()} == RANK.keys()


@pytest.mark.parametrize("path", _modules(), ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_down(path: Path) -> None:
    here = _layer(path)
    wrong = []
    for line, name, loaded in _imports(path):
        if not name.startswith("dualml"):
            continue
        there = [*name.split("."), "__init__"][1]
        if there != here and RANK[there] >= RANK[here] and (loaded or (here, there) not in UPWARD):
            wrong.append(f"line {line}: {here} imports {there}")
    assert not wrong, f"{path.name}: {'; '.join(wrong)}"


@pytest.mark.parametrize("path", _modules(), ids=lambda p: str(p.relative_to(ROOT)))
def test_libraries_have_one_place(path: Path) -> None:
    place = path.relative_to(ROOT).as_posix()
    for line, name, _ in _imports(path):
        library = name.split(".")[0]
        assert library not in NEVER, f"{place}, line {line}: imports {library}"
        allowed = ONE_PLACE.get(library)
        assert allowed is None or any(place.startswith(a) for a in allowed.split()), \
            f"{place}, line {line}: {library} is imported in {allowed} only"


def test_exceptions_are_used() -> None:
    """An exception that nothing needs any more goes."""
    used = {(_layer(p), name.split(".")[1]) for p in _modules() for _, name, loaded in _imports(p)
            if name.startswith("dualml.") and not loaded}
    assert set(UPWARD) <= used
