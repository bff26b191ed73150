"""What DUALML_DEBUG shows of a kernel: from 4 on its source, from 5 on what the device's compiler makes of it."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..config import config


def show(source: str, assembly: Callable[[], str]) -> None:
    if config.debug >= 4:
        print(source)
    if config.debug >= 5:
        print(assembly())


def ptx(nvrtc: Any, source: str, options: Sequence[str]) -> str:
    """PTX of a CUDA unit, by the compiler and options that make its machine code."""
    virtual = [o.replace("architecture=sm_", "architecture=compute_") for o in options]
    program = nvrtc.createProgram(source, "kernel.cu", (), ())
    try:
        nvrtc.compileProgram(program, virtual)
        made = nvrtc.getPTX(program)
        return made.decode() if isinstance(made, bytes) else str(made)
    except nvrtc.NVRTCError as error:
        return f"// no PTX: {error}"
    finally:
        nvrtc.destroyProgram(program)


def spirv(source: str) -> str:
    """SPIR-V of a WGSL module. WebGPU keeps it to itself, so naga, wgpu's translator, makes it, and SPIRV-Tools
    tell it, where those are installed."""
    missing = [name for name in ("naga", "spirv-dis") if shutil.which(name) is None]
    if missing:
        return (f"// no SPIR-V: {' and '.join(missing)} must be on the PATH (cargo install naga-cli; spirv-dis is of "
                "SPIRV-Tools)")
    with tempfile.TemporaryDirectory() as folder:
        module, binary = Path(folder) / "kernel.wgsl", Path(folder) / "kernel.spv"
        module.write_text(source, encoding="utf-8")
        try:
            subprocess.run(["naga", str(module), str(binary)], check=True, capture_output=True, text=True)
            return subprocess.run(["spirv-dis", str(binary)], check=True, capture_output=True, text=True).stdout
        except subprocess.CalledProcessError as error:
            return f"// no SPIR-V: {error.stderr.strip()}"
