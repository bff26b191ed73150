"""Every example runs on every backend, and says what it should."""

from __future__ import annotations

import re
import runpy
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


def _run(name: str, backend: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    monkeypatch.setattr(sys, "argv", [name, backend])
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")
    printed = capsys.readouterr().out
    assert backend in printed
    return printed


def test_tensor(backend: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    printed = _run("01_tensor.py", backend, monkeypatch, capsys)
    slope, offset = map(float, re.findall(r"slope (\S+) \(3\), offset (\S+) \(-1\)", printed)[0])
    assert abs(slope - 3) < 0.1
    assert abs(offset + 1) < 0.1
    assert "gradcheck: True" in printed


def test_new_kernel(backend: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    _run("02_new_kernel.py", backend, monkeypatch, capsys)


def test_each_example_has_a_test() -> None:
    """03_train_gpt.py is run in test_train.py."""
    text = Path(__file__).read_text(encoding="utf-8")
    assert all(path.name in text for path in EXAMPLES.glob("*.py"))
