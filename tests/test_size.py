"""Small enough to read: files, kernels and functions, with the exceptions argued for."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FILE, KERNEL, FUNCTION = 400, 150, 40  # lines

TAGS = re.compile(r"{([%{#]).*?[%}#]}")
LARGER = {
    "dualml/tensor.py": (515, "one class, whose methods are PyTorch's: a table of mostly one-liners"),
}


def _files(*patterns: str) -> list[Path]:
    return sorted(p for pattern in patterns for p in ROOT.glob(pattern))


def _name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def _lines(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


PYTHON = _files("dualml/**/*.py", "tests/**/*.py", "benchmarks/*.py", "examples/*.py", "scripts/*.py")
SOURCES = _files("cuda/**/*.cu*", "shaders/**/*.wgsl")


@pytest.mark.parametrize("path", PYTHON, ids=_name)
def test_python_file(path: Path) -> None:
    limit = LARGER.get(_name(path), (FILE, ""))[0]
    assert _lines(path) <= limit, f"{_name(path)} has {_lines(path)} lines, of {limit}"
    long = [f"{node.name} ({node.end_lineno - node.lineno + 1})"
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            if isinstance(node, ast.FunctionDef) and (node.end_lineno or 0) - node.lineno >= FUNCTION]
    assert not long, f"{_name(path)} has functions of more than {FUNCTION} lines: {', '.join(long)}"


@pytest.mark.parametrize("path", SOURCES, ids=_name)
def test_kernel_file(path: Path) -> None:
    assert _lines(path) <= KERNEL, f"{_name(path)} has {_lines(path)} lines, of {KERNEL}"


def test_exceptions_are_used() -> None:
    """An exception that nothing needs any more goes."""
    assert [n for n in LARGER if _lines(ROOT / n) <= FILE] == []


def test_no_line_is_too_long() -> None:
    """Kernels too, template tags not counted; ruff sees Python only."""
    wide = [f"{_name(p)}:{i}" for p in SOURCES for i, line in enumerate(p.read_text(encoding="utf-8").splitlines(), 1)
            if len(TAGS.sub("", line)) > 120]
    assert not wide
