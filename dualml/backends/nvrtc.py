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
_CONTRACTED = ("matmul", "attention", "decode_attention")
_MARK = hashlib.sha256().digest_size
_WHEELS = ("cuda_runtime", "cuda_crt", "cuda_nvcc", "cuda_cccl")  # of CUDA 12: folders beside one another
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
    """What NVRTC is told, for a target such as sm_90a. Division, square root and denormals stay exact. What is not
    marked is the device's: 13.0 takes a lambda with `auto` for the host's."""
    return (f"--gpu-architecture={target}", "--std=c++17", "--generate-line-info",
            "--device-as-default-execution-space", *(f"--include-path={p}" for p in includes))


def rounding(spec: Spec) -> str:
    """The option that says whether a product and a sum may become one operation that rounds once. They may in matrix
    products and attention, which live by it. Nowhere else: a kernel that a captured step runs in place of several
    (programs/) must round where those do, and the compiler would contract across their border."""
    return f"--fmad={'true' if spec.kernel.source.startswith(_CONTRACTED) else 'false'}"


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

    def __init__(self, nvrtc: Any, includes: Sequence[Path], arch: int) -> None:
        self.nvrtc = nvrtc
        self.target = target_of(arch, nvrtc.getSupportedArchs())
        self.options = compile_options(self.target, includes)

    @classmethod
    def of(cls, cupy: Any, arch: int) -> Compiler:
        """By CuPy's NVRTC, with the headers of its CUDA."""
        return cls(cupy.cuda.nvrtc, _header_folders(cupy), arch)

    def options_of(self, spec: Spec) -> tuple[str, ...]:
        return *self.options, rounding(spec)

    def compile(self, spec: Spec, source: str, anew: bool = False) -> bytes:
        """The cubin (or PTX) of a unit; `anew` where the one that was kept is of no use."""
        options = self.options_of(spec)
        digest = hashlib.sha256(f"{self.nvrtc.getVersion()} {options}\0{source}".encode()).hexdigest()[:24]
        made = config.cache / "cuda" / f"{spec.kernel.name}-{digest}.cubin"
        if not anew and (kept := _kept(made)):
            return kept
        program = self.nvrtc.createProgram(source, f"cuda/{spec.stem}.cu", (), ())
        try:
            self.nvrtc.compileProgram(program, options)
            get = self.nvrtc.getCUBIN if self.target.startswith("sm_") else self.nvrtc.getPTX
            image: bytes = get(program)
        except self.nvrtc.NVRTCError as error:
            raise KernelError(f"[{spec.kernel.name}] cuda/{spec.stem}.cu does not compile for {self.target}: {error}\n"
                              f"{self.nvrtc.getProgramLog(program)}\nDUALML_DEBUG=4 prints the source.") from error
        finally:
            self.nvrtc.destroyProgram(program)
        _keep(made, image)
        return image


def _kept(path: Path) -> bytes | None:
    """What `_keep` wrote, or None: nothing was kept, or it cannot be read, or a crash or a full disk spoilt it."""
    try:
        content = path.read_bytes()
    except OSError:
        return None
    image, mark = content[:-_MARK], content[-_MARK:]
    return image if hashlib.sha256(image).digest() == mark else None


def _keep(path: Path, image: bytes) -> None:
    """Writes an image and its hash whole or not at all; a cache that cannot be written is no error."""
    partial = ""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, partial = tempfile.mkstemp(".partial", dir=path.parent)
        with os.fdopen(handle, "wb") as file:
            file.write(image + hashlib.sha256(image).digest())
        os.replace(partial, path)
        return
    except OSError:
        pass
    with contextlib.suppress(OSError):
        os.unlink(partial)


def _header_folders(cupy: Any) -> list[Path]:
    """Where cuda_bf16.h and what it includes lie: with the CUDA that CuPy uses, which pip spreads over several
    folders; <nv/target> in CuPy too."""
    roots = [*_found_by_cuda(), Path(cupy.cuda.get_cuda_path() or "", "include")]
    first = next((root for root in roots if (root / "cuda_bf16.h").is_file()), None)
    if first is None:
        raise BackendError("[cuda] cuda_bf16.h of the CUDA toolkit is missing. Install the toolkit, or what of it we "
                           "need: pip install 'cupy-cuda12x[ctk]' or 'cupy-cuda13x[ctk]'.")
    wheels = [first.parent.with_name(name) / "include" for name in _WHEELS if first.parent.parent.name == "nvidia"]
    folders = [folder for root in (first, *wheels, *roots) for folder in (root, root / "cccl")]
    folders.append(Path(cupy.__file__).parent / "_core/include/cupy/_cccl/libcudacxx")
    return [folder for folder in dict.fromkeys(folders) if folder.is_dir()]


def _found_by_cuda() -> list[Path]:
    """What NVIDIA's own finder, which CuPy 14 brings, knows of."""
    found = []
    for name in ("cudart", "cccl", "crt", "nvcc"):
        with contextlib.suppress(ImportError, AttributeError, RuntimeError, ValueError):  # older ones know fewer names
            finder = importlib.import_module("cuda.pathfinder")
            if folder := finder.find_nvidia_header_directory(name):
                found.append(Path(folder))
    return found
