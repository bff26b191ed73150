"""From the text of a CUDA unit to a loaded library, through g++ and a cache on disk."""

from __future__ import annotations

import ctypes
import hashlib
import os
import subprocess
import tempfile
from functools import cache
from pathlib import Path

from dualml.config import config
from dualml.errors import BackendError, KernelError
from dualml.kernel import Spec

DEVICE = Path(__file__).parent / "device"
SANITIZERS = {
    "": [],
    # -nodefaultlibs is left out: the run-time library of -fsanitize=bounds is linked, the others are preloaded
    "asan": ["-g", "-fsanitize=address,bounds,alignment", "-fsanitize-recover=address,bounds,alignment"],
    "tsan": ["-g", "-fsanitize=thread"],
}
# gnu-unique symbols would be shared between kernels; a float4 read through a float pointer is no aliasing error in
# CUDA; uninitialised variables get a pattern; an implicit double is a missing f suffix.
_KERNEL = ["-std=c++17", "-O1", "-fPIC", "-shared", "-fvisibility=hidden", "-fno-gnu-unique", "-fno-strict-aliasing",
           "-ffp-contract=off", "-ftrivial-auto-var-init=pattern", "-Wno-unknown-pragmas", "-Werror=double-promotion",
           "-Werror=return-type", "-Werror=uninitialized", "-nostartfiles", "-include", "cuda_cpu.h", "-x", "c++", "-"]
_RUNTIME = ["-std=c++17", "-O2", "-fPIC", "-shared", "-Wall", "-Wextra", "-Werror"]


class Unit(ctypes.Structure):
    """What a kernel library exports; the twin of cuda_cpu::Unit in threads.h."""

    _fields_ = [("entry", ctypes.c_void_p), ("shared", ctypes.c_void_p), ("shared_end", ctypes.c_void_p),
                ("params", ctypes.c_uint), ("dynamic", ctypes.c_uint)]


@cache
def compiler() -> str:
    """First line of `g++ --version`."""
    try:
        return subprocess.run(["g++", "--version"], capture_output=True, text=True, check=True).stdout.splitlines()[0]
    except (OSError, subprocess.CalledProcessError) as error:
        raise BackendError(f"[cuda_on_cpu] g++ does not answer: {error}. Install the package g++.") from None


@cache
def _headers() -> bytes:
    return b"\0".join(path.read_bytes() for path in sorted(DEVICE.iterdir())) + compiler().encode()


def _library(name: str, command: list[str], source: str) -> Path:
    """The library that a g++ command makes of a source on its standard input; from the cache if it was made before."""
    key = hashlib.sha256("\0".join([*command, source]).encode() + _headers()).hexdigest()[:20]
    folder = config.cache / "cuda_on_cpu"
    made = folder / f"{name}-{key}.so"
    if made.exists():
        return made
    folder.mkdir(parents=True, exist_ok=True)
    handle, partial = tempfile.mkstemp(".so", name, folder)  # renamed when whole: other processes may want it too
    os.close(handle)
    done = subprocess.run(["g++", *command, "-o", partial], cwd=DEVICE, input=source, capture_output=True, text=True,
                          check=False, env=os.environ | {"LC_ALL": "C", "LD_PRELOAD": ""})
    if done.returncode:
        os.unlink(partial)
        raise KernelError(done.stderr)
    os.replace(partial, made)
    return made


@cache
def load_runtime(sanitizer: str) -> ctypes.CDLL:
    """The library that runs blocks; its symbols are global, as kernels look theirs up in it."""
    define = [f"-DDEVICE_{sanitizer.upper()}"] if sanitizer else []
    try:
        path = _library("runtime", [*_RUNTIME, *define, "runtime.cpp", "memory.cpp", "-lm"], "")
    except KernelError as error:
        raise BackendError(f"[cuda_on_cpu] needs Linux and GCC 12 or later; this compiler says:\n{error}") from None
    loaded = ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)
    loaded.cuda_cpu_alloc.restype = ctypes.c_void_p
    loaded.cuda_cpu_alloc.argtypes = [ctypes.c_size_t]
    loaded.cuda_cpu_free.argtypes = loaded.cuda_cpu_overrun.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    loaded.cuda_cpu_free.restype = None
    loaded.cuda_cpu_launch.restype = ctypes.c_char_p
    loaded.cuda_cpu_launch.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint, ctypes.c_uint]
    return loaded


def _export(spec: Spec) -> str:
    """The end of a unit: a call of the kernel from an array of pointers, and what the loader must know."""
    kernel = spec.kernel
    arguments = [f"({spec.dtype(a).cuda}*)a[{i}]" for i, a in enumerate(kernel.args)]
    arguments.append(f"*(const Params*)a[{len(kernel.args)}]")
    return "\n".join([
        "", '#line 1 "export"',
        f'static_assert(sizeof(Params) == {spec.struct.itemsize}, "Params differs from the host\'s");',
        'extern "C" __attribute__((visibility("hidden"))) char __bss_start[], _end[];',
        f"static void cuda_cpu_entry(void** a) {{ {kernel.name}({', '.join(arguments)}); }}",
        "namespace cuda_cpu { namespace kernel { constexpr unsigned dynamic = dynamic_bytes; } }",
        'extern "C" __attribute__((visibility("default"))) const cuda_cpu::Unit cuda_cpu_unit = '
        "{cuda_cpu_entry, __bss_start, _end, sizeof(Params), cuda_cpu::kernel::dynamic};", ""])


def load_kernel(spec: Spec, source: str, sanitizer: str) -> tuple[ctypes.CDLL, Unit]:
    """The loaded library of a Spec's source text, and its exported Unit, which lives as long as the library."""
    flags = [*SANITIZERS[sanitizer], *_KERNEL, "-lgcc", *([] if sanitizer else ["-nodefaultlibs"])]
    load_runtime(sanitizer)
    name = spec.kernel.name
    try:
        library = ctypes.CDLL(str(_library(name, flags, source + _export(spec))))
    except KernelError as error:
        raise KernelError(f"[{name}] cuda/{spec.stem}.cu does not compile for the CPU test device:\n{error}") from None
    except OSError as error:
        raise KernelError(f"[{name}] cuda/{spec.stem}.cu calls what the CPU test device lacks: {error}") from None
    return library, Unit.in_dll(library, "cuda_cpu_unit")
