"""Kernels of cuda/ as NVRTC gets them: headers put in place, options chosen for the device, results kept on disk."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import os
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..config import config
from ..errors import BackendError, KernelError
from ..kernel import Spec
from .sources import folder

_INCLUDE = re.compile(r'\s*#\s*include\s+"(lib/[^"]+)"')
_LINE = re.compile(r'#line (\d+) "([^"]+)"')
_DYNAMIC_SHARED = re.compile(r"^DYNAMIC_SHARED\((\d*)", re.MULTILINE)


def inline_headers(source: str) -> str:
    """The source with the headers of cuda/lib/ in place of their includes, each once: a compile cache that is keyed by
    the text then notices a changed header, and the compiler needs no folder of ours."""
    seen: set[str] = set()

    def expand(unit: str, name: str) -> list[str]:
        lines: list[str] = []
        number = 0
        for line in unit.split("\n"):
            number += 1
            if moved := _LINE.match(line):
                number, name = int(moved[1]) - 1, moved[2]
            include = _INCLUDE.match(line)
            if include is None:
                lines.append(line)
            elif include[1] not in seen:
                seen.add(include[1])
                header = folder("cuda") / include[1]
                if not header.is_file():
                    raise KernelError(f"[cuda] {name} includes {include[1]}, which is not in cuda/.")
                text = header.read_text().replace("#pragma once", "")
                lines += [f'#line 1 "cuda/{include[1]}"', *expand(text, f"cuda/{include[1]}"),
                          f'#line {number + 1} "{name}"']
            else:
                lines.append("")
        return lines

    return "\n".join(expand(source, "preamble"))


def dynamic_shared(source: str) -> int:
    """Bytes of shared memory that a unit asks for by DYNAMIC_SHARED (cuda/lib/common.cuh)."""
    wanted = _DYNAMIC_SHARED.search(source)
    if wanted and not wanted[1]:
        raise KernelError("[cuda] DYNAMIC_SHARED must get a number, got an expression. Compute it in the template: "
                          "DYNAMIC_SHARED({{ 2 * BLOCK }}).")
    return int(wanted[1]) if wanted else 0


def compile_options(target: str, includes: Sequence[Path]) -> tuple[str, ...]:
    """What NVRTC is told, for a target such as sm_90a. Division, square root and denormals stay exact."""
    return (f"--gpu-architecture={target}", "--std=c++17", "--generate-line-info",
            *(f"--include-path={p}" for p in includes))


def target_of(arch: int, supported: Sequence[int]) -> str:
    """The architecture to compile for: the device's own, or PTX of the newest that the compiler knows below it. From
    Hopper on the suffix `a` admits the instructions (wgmma) that no later device promises."""
    if arch in supported:
        return f"sm_{arch}a" if arch >= 90 else f"sm_{arch}"
    older = [a for a in supported if a < arch]
    if not older:
        raise BackendError(f"[cuda] this CUDA no longer compiles for compute capability {arch / 10:.1f}. Install an "
                           "older CUDA and its CuPy.")
    return f"compute_{max(older)}"


class Compiler:
    """NVRTC with a cache on disk."""

    def __init__(self, cupy: Any, arch: int) -> None:
        self.nvrtc = cupy.cuda.nvrtc
        self.target = target_of(arch, self.nvrtc.getSupportedArchs())
        self.options = compile_options(self.target, _header_folders(cupy))
        self.key = f"{self.nvrtc.getVersion()} {self.options}"

    def compile(self, spec: Spec, source: str) -> bytes:
        """The cubin (or PTX) of a unit."""
        digest = hashlib.sha256(f"{self.key}\0{source}".encode()).hexdigest()[:24]
        made = config.cache / "cuda" / f"{spec.kernel.name}-{digest}.cubin"
        if made.is_file():
            return made.read_bytes()
        program = self.nvrtc.createProgram(source, f"cuda/{spec.stem}.cu", (), ())
        try:
            self.nvrtc.compileProgram(program, self.options)
            get = self.nvrtc.getCUBIN if self.target.startswith("sm_") else self.nvrtc.getPTX
            image: bytes = get(program)
        except self.nvrtc.NVRTCError as error:
            raise KernelError(f"[{spec.kernel.name}] cuda/{spec.stem}.cu does not compile for {self.target}: {error}\n"
                              f"{self.nvrtc.getProgramLog(program)}\nDUALML_DEBUG=4 prints the source.") from error
        finally:
            self.nvrtc.destroyProgram(program)
        _keep(made, image)
        return image


def _keep(path: Path, content: bytes) -> None:
    """Writes a file whole or not at all; a cache that cannot be written is no error."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, partial = tempfile.mkstemp(dir=path.parent)
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.replace(partial, path)
    except OSError:
        pass


def _header_folders(cupy: Any) -> list[Path]:
    """Where cuda_bf16.h and what it includes lie: with the CUDA that CuPy uses; <nv/target> in CuPy too."""
    roots = [os.path.join(cupy.cuda.get_cuda_path() or "", "include")]
    with contextlib.suppress(ImportError, AttributeError):  # CuPy 14 brings it
        finder = importlib.import_module("cuda.pathfinder")
        roots.insert(0, finder.find_nvidia_header_directory("cudart") or "")
    for root in map(Path, roots):
        if (root / "cuda_bf16.h").is_file():
            extra = [root / "cccl", Path(cupy.__file__).parent / "_core/include/cupy/_cccl/libcudacxx"]
            return [root, *(p for p in extra if p.is_dir())]
    raise BackendError("[cuda] cuda_bf16.h of the CUDA toolkit is missing. Install the toolkit, or what of it we need: "
                       "pip install 'cupy-cuda12x[ctk]' or 'cupy-cuda13x[ctk]'.")
