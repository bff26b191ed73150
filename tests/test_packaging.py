"""An installed wheel works from anywhere, and importing dualml loads no GPU library."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.parity.modes import PRESENT

ROOT = Path(__file__).resolve().parents[1]
USE = """
import sys
import numpy as np
import dualml as dm
from dualml.backends.sources import folder
assert "{site}" in dm.__file__ and "{site}" in str(folder("shaders")), (dm.__file__, folder("shaders"))
for backend in {backends}:
    x = dm.tensor([[1.0, 2.0], [3.0, 5.0]], backend=backend, requires_grad=True)
    (x @ x).softmax(-1).sum().backward()
    dm.nn.functional.layer_norm(x, (2,)).square().sum().backward()
    assert np.isfinite(x.grad.numpy()).all()
print("works")
"""
LIGHT = """
import sys
import dualml
heavy = {"wgpu", "cupy", "torch", "typer", "rich", "matplotlib", "safetensors", "regex", "asyncio"} & sys.modules.keys()
assert not heavy, f"import dualml loads {heavy}"
"""


def _python(code: str, cwd: Path, site: Path | None = None) -> str:
    env = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "DUALML_BACKEND")}
    env |= {"PYTHONPATH": str(site)} if site else {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], cwd=cwd, env=env, capture_output=True, text=True,
                          check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built from this checkout."""
    pytest.importorskip("hatchling", reason="hatchling builds the wheel; it is in the extra dev")
    target = tmp_path_factory.mktemp("wheel")
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(target)], cwd=ROOT, check=True,
                   capture_output=True)
    return next(target.glob("dualml-*.whl"))


def test_wheel_has_all_sources(wheel: Path) -> None:
    packed = set(zipfile.ZipFile(wheel).namelist())
    for name, pattern in (("cuda", "*.cu*"), ("shaders", "*.wgsl")):
        for path in (ROOT / name).rglob(pattern):
            assert f"dualml/kernels/{path.relative_to(ROOT).as_posix()}" in packed
    for pattern in ("*.py", "*.jsonl", "*.html"):
        for path in (ROOT / "dualml").rglob(pattern):
            assert path.relative_to(ROOT).as_posix() in packed
    assert not [n for n in packed if n.startswith(("tests/", "benchmarks/", "shaders/", "cuda/"))]


def test_wheel_runs_from_another_folder(wheel: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index", "--target", str(site),
                    str(wheel)], check=True, capture_output=True)
    backends = [n for n in PRESENT if n in ("cpu", "webgpu", "cuda")]
    assert _python(USE.format(site=site.name, backends=backends), tmp_path, site).strip() == "works"
    script = subprocess.run([str(site / "bin" / "dualml"), "--help"], env=os.environ | {"PYTHONPATH": str(site)},
                            cwd=tmp_path, capture_output=True, text=True, check=False)
    assert script.returncode == 0, script.stderr
    assert "train" in script.stdout


def test_import_is_light(tmp_path: Path) -> None:
    _python(LIGHT, tmp_path)
