"""The cuda backend: the kernels of cuda/ by NVRTC and the CUDA driver, through CuPy. The only file that imports CuPy.

All work goes to one stream of our own, in order; nothing waits but reads and synchronize. Kernels are compiled for the
device at hand and kept in the cache folder. Captured steps become CUDA graphs (cuda_graph.py). Where a vendor library
fulfils a kernel's contract it runs in its place (cublas.py), but with `vendor = False`: so ours stay tested, measured.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import importlib
import os
import re
import tempfile
import threading
import warnings
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .. import dtypes
from ..config import config
from ..errors import BackendError, DeviceLostError, KernelError, OutOfMemoryError
from ..kernel import DeviceInfo, Spec
from .assembly import ptx, show
from .base import Backend, Binding, Buffer, Copies, Frozen, Replay
from .cublas import Cublas, Matmul
from .cuda_graph import Clock, Graph
from .sources import cuda_source, folder

_INCLUDE = re.compile(r'\s*#\s*include\s+"(lib/[^"]+)"')
_LINE = re.compile(r'#line (\d+) "([^"]+)"')
_DYNAMIC_SHARED = re.compile(r"^DYNAMIC_SHARED\((\d*)", re.MULTILINE)
_STATIC_SHARED = 48 << 10  # above this a kernel must be allowed to use more
_STAGING = 64 << 20        # bytes of host memory that writes under way may hold
_OUT_OF_MEMORY = 2
# After these the process's context is unusable (CUDA runtime API, cudaError: "the process must be terminated").
_FATAL = {4, 46, 214, 220, 226, 700, 702, 709, 710, 714, 715, 716, 717, 718, 719, 999}


# ---- compiling ------------------------------------------------------------------------------------------------------

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


class _Compiler:
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


# ---- the backend ----------------------------------------------------------------------------------------------------

class CudaBackend(Backend):
    """The first CUDA device (CUDA_VISIBLE_DEVICES chooses)."""

    name = "cuda"
    dtypes = frozenset(dtypes.ALL) - {dtypes.float64}
    vendor = True

    def __init__(self) -> None:
        self.cupy = cupy = _import_cupy()
        self.runtime, self.driver = cupy.cuda.runtime, cupy.cuda.driver
        try:
            properties = self.runtime.getDeviceProperties(self.runtime.getDevice())
            self.stream = cupy.cuda.Stream(non_blocking=True)
            memory = self.runtime.memGetInfo()[1]
        except RuntimeError as error:
            raise BackendError(f"[cuda] no CUDA device answers: {error}. Install NVIDIA's driver, or the CuPy for the "
                               "CUDA version of the driver that is there.") from error
        arch = properties["major"] * 10 + properties["minor"]
        version = self.runtime.driverGetVersion()
        limits = {"memory": memory, "multiprocessors": properties["multiProcessorCount"],
                  "shared-memory": properties["sharedMemPerBlockOptin"]}
        self.device = DeviceInfo("cuda", properties["name"].decode(), f"CUDA {version // 1000}.{version % 1000 // 10}",
                                 subgroup_size=32, limits=limits, arch=arch)
        self.pool = cupy.cuda.MemoryPool()
        self._compiler = _Compiler(cupy, arch)
        self._staged: deque[tuple[Any, Any, int]] = deque()  # event, host memory, bytes of writes under way
        self._staged_bytes = 0
        self._lock = threading.RLock()  # launches of a program share memory, and a graph records all that is enqueued
        self._cublas: Cublas | None = None
        self._clock: Clock | None = None
        self.in_use = self.peak = 0

    @property
    def own_products(self) -> bool:
        return not self.vendor

    # ---- memory ----

    def alloc(self, nbytes: int) -> Buffer:
        try:
            handle = self.pool.malloc(max(nbytes, 1))
        except self.cupy.cuda.memory.OutOfMemoryError as error:
            raise OutOfMemoryError(f"[alloc] {self.device.name} has no {nbytes / 2**20:.1f} MiB left; "
                                   f"{self.in_use / 2**20:.0f} MiB are in use. Use a smaller batch.") from error
        except RuntimeError as error:
            raise _translate(error) from error
        self.in_use += nbytes
        self.peak = max(self.peak, self.in_use)
        return Buffer(self, handle, nbytes)

    def free(self, handle: Any, nbytes: int) -> None:
        """The pool takes the memory back as the handle goes. Whoever gets it next comes later on the same stream."""
        self.in_use -= nbytes

    def write(self, buffer: Buffer, offset: int, data: np.ndarray) -> None:
        """Through pinned memory, so that the caller may change the data and need not wait for the device."""
        if not data.nbytes:
            return
        try:
            self._await_staged(data.nbytes)
            host = self.cupy.cuda.alloc_pinned_memory(data.nbytes)
            ctypes.memmove(host.ptr, data.ctypes.data, data.nbytes)
            event = self.cupy.cuda.Event(disable_timing=True)
            with self._lock:
                self.runtime.memcpyAsync(buffer.handle.ptr + offset, host.ptr, data.nbytes,
                                         self.runtime.memcpyHostToDevice, self.stream.ptr)
                event.record(self.stream)
        except RuntimeError as error:
            raise _translate(error) from error
        self._staged.append((event, host, data.nbytes))
        self._staged_bytes += data.nbytes

    def _await_staged(self, nbytes: int) -> None:
        """Lets go of host memory whose write is done; waits for the oldest where too much is held."""
        while self._staged:
            event, _, held = self._staged[0]
            if self._staged_bytes + nbytes > _STAGING:
                event.synchronize()
            elif not event.done:
                return
            self._staged.popleft()
            self._staged_bytes -= held

    def read(self, buffer: Buffer, offset: int, dtype: np.dtype, count: int) -> np.ndarray:
        host = np.empty(count, dtype)
        try:
            with self._lock:
                if count:
                    self.runtime.memcpyAsync(host.ctypes.data, buffer.handle.ptr + offset, host.nbytes,
                                             self.runtime.memcpyDeviceToHost, self.stream.ptr)
            self.stream.synchronize()
        except RuntimeError as error:
            raise _translate(error) from error
        return host

    def view(self, buffer: Buffer, offset: int, dtype: np.dtype, count: int) -> Any:
        """The memory itself as a CuPy array. It is written on our stream: whoever reads it waits for that."""
        self.stream.synchronize()
        return self.cupy.ndarray((count,), dtype, buffer.handle + offset)

    def copy(self, source: Buffer, source_offset: int, target: Buffer, target_offset: int, nbytes: int) -> None:
        try:
            with self._lock:
                self.enqueue_copy(Binding(source, source_offset, nbytes), Binding(target, target_offset, nbytes))
        except RuntimeError as error:
            raise _translate(error) from error

    def enqueue_copy(self, source: Binding, target: Binding) -> None:
        """A copy on the device. Called with the lock held."""
        self.runtime.memcpyAsync(target.buffer.handle.ptr + target.offset, source.buffer.handle.ptr + source.offset,
                                 target.nbytes, self.runtime.memcpyDeviceToDevice, self.stream.ptr)

    def memory(self) -> dict[str, int]:
        return {"in_use": self.in_use, "peak": self.peak, "pool": self.pool.free_bytes()}

    def trim(self) -> None:
        """Gives pooled memory back to the driver."""
        self.pool.free_all_blocks()

    # ---- programs ----

    def build(self, spec: Spec) -> Any:
        if self.vendor and (program := self._vendor_program(spec)):
            return program
        source = inline_headers(cuda_source(spec, self.device))
        show(source, lambda: ptx(self._compiler.nvrtc, source, self._compiler.options))
        image = self._compiler.compile(spec, source)
        try:
            driver, shared = self.driver, dynamic_shared(source)
            function = driver.moduleGetFunction(driver.moduleLoadData(image), spec.kernel.name)
            if shared > _STATIC_SHARED:
                driver.funcSetAttribute(function, driver.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, shared)
            return _Program(self, spec, function, shared)
        except RuntimeError as error:
            raise _translate(error) from error

    def _vendor_program(self, spec: Spec) -> Matmul | None:
        """A library's program where it does the same as a kernel of ours."""
        if spec.kernel.name != "matmul" or not Matmul.takes(spec):
            return None
        if self._cublas is None:
            self._cublas = Cublas(self.cupy, self.stream, self)
        return Matmul(self._cublas, self, spec)

    def launch(self, program: Any, bindings: Sequence[Binding], params: bytes, groups: int) -> None:
        with self._lock:
            try:
                if self._clock is None:
                    program.launch(bindings, params, groups)
                else:
                    self._clock.time(lambda: program.launch(bindings, params, groups))
            except RuntimeError as error:
                raise _translate(error) from error

    def freeze(self, launches: Sequence[Frozen]) -> Replay:
        """One CUDA graph of all launches."""
        try:
            with self._lock:
                graph = Graph(self, launches) if launches else None
        except RuntimeError as error:
            found = _translate(error)
            raise type(found)(f"[cuda] {len(launches)} launches could not be recorded as a CUDA graph: {found} Run "
                              "the step without dm.capture, and tell us what it does.") from error

        def replay(copies: Copies = ()) -> None:
            try:
                with self._lock:
                    if graph is not None:
                        graph()
                    for pair in copies:
                        self.enqueue_copy(*pair)
            except RuntimeError as error:
                raise _translate(error) from error
        return replay

    def begin_timing(self) -> bool:
        self._clock = Clock(self.cupy, self.stream)
        return True

    def end_timing(self) -> list[float]:
        clock, self._clock = self._clock, None
        try:
            return clock.seconds() if clock else []
        except RuntimeError as error:
            raise _translate(error) from error

    def synchronize(self) -> None:
        try:
            self.stream.synchronize()
        except RuntimeError as error:
            raise _translate(error) from error


class _Program:
    """A loaded kernel and, made once, the memory that its arguments are passed in."""

    def __init__(self, backend: CudaBackend, spec: Spec, function: int, shared: int) -> None:
        count = len(spec.kernel.args)
        self.function, self.block, self.shared = function, spec.block, shared
        self.enqueue, self.stream = backend.driver.launchKernel, backend.stream.ptr
        self.addresses = (ctypes.c_uint64 * count)()
        self.fields = ctypes.create_string_buffer(spec.struct.itemsize)
        each = [ctypes.addressof(self.addresses) + 8 * i for i in range(count)]
        self.pointers = (ctypes.c_void_p * (count + 1))(*each, ctypes.addressof(self.fields))
        self.arguments = ctypes.addressof(self.pointers)

    def prepare(self, params: bytes) -> None:
        """Nothing: all that a launch needs is its buffers."""

    def launch(self, bindings: Sequence[Binding], params: bytes, groups: int) -> None:
        for index, bound in enumerate(bindings):
            self.addresses[index] = bound.buffer.handle.ptr + bound.offset
        ctypes.memmove(self.fields, params, len(params))
        self.enqueue(self.function, groups, 1, 1, self.block, 1, 1, self.shared, self.stream, self.arguments, 0)


# ---- errors ---------------------------------------------------------------------------------------------------------

def _import_cupy() -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about what it does not find; what we need is checked below
            import cupy
    except Exception as error:  # CuPy raises what its libraries' loaders raise
        raise BackendError(f"[cuda] CuPy cannot be loaded: {error}. Install it with pip install 'dualml[cuda12]' or "
                           "'dualml[cuda13]', for the CUDA version that nvidia-smi names.") from error
    return cupy


def _translate(error: RuntimeError) -> BackendError:
    if isinstance(error, BackendError):
        return error
    status = getattr(error, "status", None)
    if status == _OUT_OF_MEMORY:
        return OutOfMemoryError(f"[cuda] out of memory: {error}. Use a smaller batch or model.")
    if status in _FATAL:
        return DeviceLostError(f"[cuda] {error}. Nothing more runs on the device in this process: start again from the "
                               "last checkpoint. DUALML_CHECK=1 finds the kernel that did it.")
    return BackendError(f"[cuda] {error}")
