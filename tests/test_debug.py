"""DUALML_DEBUG and DUALML_CHECK, as a user sets them, on eager and on captured steps."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dualml as dm
from dualml import nn, optim, runtime
from dualml.array import from_numpy, run
from dualml.backends import assembly, cuda, nvrtc as compiling
from dualml.config import config
from dualml.debug import Check
from dualml.errors import KernelError
from dualml.kernel import KERNELS
from dualml.ops.softmax import softmax_forward
from tests.cupy_stand_in import put_in_place
from tests.parity.modes import PRESENT, REQUIRED
from tests.real_nvrtc import RealNvrtc, nvrtc

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = """
import numpy as np, dualml as dm
from dualml import nn
layer = nn.Linear(8, 4)
step = dm.capture(lambda x: nn.functional.gelu(layer(x)) * 2)
for _ in range(4):
    step(np.ones((2, 8), np.float32))
"""


def _run(backend: str, **flags: str) -> str:
    env = os.environ | {"PYTHONPATH": str(ROOT), "DUALML_BACKEND": backend, "DUALML_DEBUG": "0"} | flags
    done = subprocess.run([sys.executable, "-c", SCRIPT], env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_debug_levels() -> None:
    if "webgpu" not in PRESENT:
        pytest.skip("no WebGPU")
    assert _run("webgpu") == ""
    one, three, five = (_run("webgpu", DUALML_DEBUG=level, PATH="") for level in "135")
    assert one.startswith("dualml: webgpu on ")
    assert len(one.splitlines()) == 1
    times = re.findall(r"^webgpu (\w+) +\d+ us +[\d.]+ GB/s  \w+\[", three, re.MULTILINE)
    assert len(times) >= 4  # replays too
    assert "@compute" not in three
    assert "@compute" in five
    assert "no SPIR-V: naga and spirv-dis" in five


def test_spirv_is_by_naga(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, line in (("naga", 'cp "$1" "$2"'), ("spirv-dis", 'echo "OpCapability of" $(cat "$1")')):
        (tmp_path / name).write_text(f"#!/bin/sh\n{line}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    assert assembly.spirv("fn main() {}") == "OpCapability of fn main() {}\n"
    (tmp_path / "naga").write_text("#!/bin/sh\necho unknown identifier >&2; exit 1\n")
    assert assembly.spirv("fn main() {}") == "// no SPIR-V: unknown identifier"


class _Nvrtc:
    """Keeps what it is told."""

    class NVRTCError(Exception): ...

    def __init__(self) -> None:
        self.told: tuple[str, ...] = ()
        self.alive = 0

    def createProgram(self, *_: Any) -> str:
        self.alive += 1
        return "program"

    def compileProgram(self, _: str, options: tuple[str, ...]) -> None:
        self.told = tuple(options)

    def getPTX(self, _: str) -> bytes:
        return b".version 8.0"

    def destroyProgram(self, _: str) -> None:
        self.alive -= 1


def test_ptx_is_by_nvrtc() -> None:
    nvrtc = _Nvrtc()
    assert assembly.ptx(nvrtc, "", ("--gpu-architecture=sm_90a", "--std=c++17")) == ".version 8.0"
    assert nvrtc.told == ("--gpu-architecture=compute_90a", "--std=c++17")
    assert nvrtc.alive == 0


def test_level_five_shows_the_ptx_of_a_real_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
                                                     capsys: pytest.CaptureFixture[str]) -> None:
    """The cuda backend builds a kernel by NVIDIA's NVRTC; only the device that would run it is a stand-in."""
    found = nvrtc()
    if found is None:
        (pytest.fail if "nvrtc" in REQUIRED else pytest.skip)("NVRTC's wheels are not installed")
    device = put_in_place(monkeypatch, tmp_path)
    device.cuda.nvrtc = RealNvrtc()
    monkeypatch.setattr(compiling, "_header_folders", lambda cupy: found[1])
    for level, source, ptx in ((3, False, False), (4, True, False), (5, True, True)):
        monkeypatch.setattr(config, "debug", level)
        backend = cuda.CudaBackend()
        run(softmax_forward, from_numpy(np.ones((2, 24), np.float32), backend=backend))
        shown = capsys.readouterr().out
        assert ('extern "C" __global__' in shown) is source
        for line in (".target sm_90a", ".visible .entry softmax_forward(", "ex2.approx"):
            assert (line in shown) is ptx, line
    broken = assembly.ptx(backend._compiler.nvrtc, "nonsense", backend._compiler.options)
    assert broken == "// no PTX: nvrtcCompileProgram answers 6"


@pytest.fixture
def checked() -> Any:
    hook = Check()
    runtime.hooks.append(hook)
    yield hook
    runtime.hooks.remove(hook)


def test_a_captured_step_can_be_checked(backend: str, checked: Check) -> None:
    """The check reads what launches read and wrote, which is no part of the step."""
    model = nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Dropout(0.2), nn.Linear(8, 3))
    optimizer = optim.AdamW(model.parameters())

    @dm.capture
    def step(x: dm.Tensor) -> dm.Tensor:
        optimizer.zero_grad()
        loss = model(x).square().mean()
        loss.backward()
        optim.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return loss
    for _ in range(3):
        assert np.isfinite(step(dm.ones(5, 4)).item())
    assert step.programs


@pytest.mark.parametrize("backend", [n for n in PRESENT if n != "cpu"], indirect=True)  # the reference
@pytest.mark.parametrize("captured", [False, True], ids=["eager", "captured"])
def test_the_check_stops_at_the_first_that_disagrees(backend: str, checked: Check, captured: bool,
                                                     monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[str] = []

    def step(x: dm.Tensor) -> dm.Tensor:
        ran.append("called")
        return (x.cumsum(0) @ x).softmax(-1)
    taken: Any = dm.capture(step) if captured else step
    for _ in range(3):
        taken(dm.ones(4, 4))
    assert len(ran) == (2 if captured else 3)
    monkeypatch.setattr(KERNELS["matmul"], "reference", lambda *args, **kwargs: np.full((1, 4, 4), 9.0, np.float32))
    with pytest.raises(KernelError, match=rf"\[matmul\] on {backend}: \w+ disagrees with the reference in 16 of 16"):
        taken(dm.ones(4, 4))
