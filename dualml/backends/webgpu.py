"""The webgpu backend: WGSL through wgpu-py on Vulkan, Metal or DX12. The only file that imports wgpu.

Launches are collected and encoded into one compute pass, submitted when something must be read, when a buffer that is
in use is written, or when enough have gathered. Sources get explicit layouts: `layout="auto"` drops unused bindings.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import dtypes
from ..config import config
from ..errors import BackendError, DeviceLostError, KernelError, LimitError, OutOfMemoryError
from ..kernel import DeviceInfo, Spec
from . import lavapipe
from .assembly import show, spirv
from .base import Backend, Binding, Buffer, Frozen, Replay
from .sources import wgsl_source
from .webgpu_clock import Clock
from .webgpu_replay import SLOT, Encoded, write_bytes

# The browser's default limits: what runs here runs there (WebGPU specification, section 3.6.2).
BROWSER_LIMITS = {
    "max-storage-buffers-per-shader-stage": 8,
    "max-storage-buffer-binding-size": 128 << 20,
    "max-buffer-size": 256 << 20,
    "max-compute-workgroup-storage-size": 16384,
    "max-compute-invocations-per-workgroup": 256,
    "max-compute-workgroup-size-x": 256,
    "max-compute-workgroups-per-dimension": 65535,
}
_FEATURES = ("shader-f16", "subgroup", "timestamp-query")
_BATCH = 128       # launches encoded into one submit
_POOL_LIMIT = 1 << 30


@dataclass(slots=True)
class _Program:
    pipeline: Any
    layout: Any


def _size_class(nbytes: int) -> int:
    """Pooled sizes: multiples of 256, then eight steps to an octave, so that at most 1/8 is unused."""
    step = 256
    while step * 16 <= nbytes:
        step *= 2
    return max(256, -(-nbytes // step) * step)


class WebGpuBackend(Backend):
    name = "webgpu"

    def __init__(self) -> None:
        adapter = _pick_adapter()
        features = [f for f in _FEATURES if f in adapter.features]
        limits = dict(BROWSER_LIMITS)
        if config.limits == "adapter":
            limits = {k: max(v, adapter.limits[k]) for k, v in limits.items()}
        self.gpu = adapter.request_device_sync(required_features=features, required_limits=limits)
        self.limits = limits
        info = adapter.info
        self._pool: dict[int, list[Any]] = {}
        self._freed: deque[tuple[Any, int]] = deque()
        self._lent: dict[int, Any] = {}  # handles of living buffers, for the collector's sake: it would release the
        #                                  handle of a buffer in a cycle, which `free` has just put into the pool
        self._groups: dict[Any, Any] = {}
        self._lock = threading.RLock()  # launches of several threads share the batch
        self._pending: list[tuple[_Program, Any, int, int]] = []
        self._touched: set[int] = set()
        self._params = bytearray(SLOT * _BATCH)
        self.in_use = self.peak = self.pooled = self.submits = 0
        usage = _wgpu().BufferUsage
        self._usage = usage.STORAGE | usage.COPY_SRC | usage.COPY_DST
        self._uniforms = self.gpu.create_buffer(size=len(self._params), usage=usage.UNIFORM | usage.COPY_DST)
        self._clock: Clock | None = None
        self._layouts: dict[tuple[str, ...], tuple[Any, Any]] = {}
        self.dtypes = frozenset({dtypes.float32, dtypes.int32, dtypes.uint32, dtypes.bool_}
                                | ({dtypes.float16} if "shader-f16" in features else set()))
        self.device = DeviceInfo("webgpu", info["device"], f"{info['backend_type']} {info['description']}",
                                 software=info["adapter_type"] == "CPU", features=frozenset(features), limits=limits,
                                 subgroup_size=self._probe_subgroups() if "subgroup" in features else 0)

    def _probe_subgroups(self) -> int:
        """The subgroup size is a property of the compiled shader, not of the adapter: ask one."""
        code = ("@group(0) @binding(0) var<storage, read_write> out: array<u32>;\n"
                "@compute @workgroup_size(64) fn probe(@builtin(subgroup_size) size: u32,"
                " @builtin(local_invocation_index) t: u32) { if (t == 0u) { out[0] = size; } }")
        module = self.gpu.create_shader_module(code=code)
        pipeline = self.gpu.create_compute_pipeline(layout="auto", compute={"module": module, "entry_point": "probe"})
        buffer = self.gpu.create_buffer(size=16, usage=self._usage)
        group = self.gpu.create_bind_group(layout=pipeline.get_bind_group_layout(0), entries=[
            {"binding": 0, "resource": {"buffer": buffer, "offset": 0, "size": 16}}])
        encoder = self.gpu.create_command_encoder()
        scope = encoder.begin_compute_pass()
        scope.set_pipeline(pipeline)
        scope.set_bind_group(0, group)
        scope.dispatch_workgroups(1)
        scope.end()
        self.gpu.queue.submit([encoder.finish()])
        return int(np.frombuffer(self.gpu.queue.read_buffer(buffer), np.uint32)[0])

    # ---- memory ----

    def alloc(self, nbytes: int) -> Buffer:
        limit = self.limits["max-storage-buffer-binding-size"]
        if nbytes > limit:
            raise LimitError(f"[alloc] a tensor of {nbytes / 2**20:.1f} MiB is above this device's binding limit of "
                             f"{limit / 2**20:.0f} MiB. Use a smaller batch or split the tensor; DUALML_LIMITS=adapter "
                             "asks for more than a browser would give.")
        size = _size_class(nbytes)
        with self._lock:
            self._take_back()
            if self.pooled > _POOL_LIMIT:
                self.trim()
            free = self._pool.get(size)
            if free:
                handle = free.pop()
                self.pooled -= size
            else:
                handle = self._create(size)
            self._lent[id(handle)] = handle
            self.in_use += size
            self.peak = max(self.peak, self.in_use)
        return Buffer(self, handle, nbytes)

    def _create(self, size: int) -> Any:
        for attempt in (0, 1):
            try:
                return self.gpu.create_buffer(size=size, usage=self._usage)
            except Exception as error:
                if not _out_of_memory(error):
                    raise _translate(error) from error
                if attempt or not self.pooled:
                    break
                self.trim()
        raise OutOfMemoryError(f"[alloc] {self.device.name} has no {size / 2**20:.1f} MiB left; "
                               f"{self.in_use / 2**20:.0f} MiB are in use. Use a smaller batch or model.")

    def free(self, handle: Any, nbytes: int) -> None:
        """Waits for nothing: the collector may call this in any thread, such as the one of wgpu-py that a reading
        thread waits for while it holds the lock."""
        self._freed.append((handle, _size_class(nbytes)))

    def _take_back(self) -> None:
        """Puts what was freed into the pool. Called with the lock held."""
        while self._freed:
            handle, size = self._freed.popleft()
            del self._lent[id(handle)]
            self.in_use -= size
            self._pool.setdefault(size, []).append(handle)
            self.pooled += size

    def trim(self) -> None:
        """Gives pooled memory back to the driver."""
        with self._lock:
            self._flush()
            self._take_back()
            self._pool.clear()
            self._groups.clear()  # bind groups keep their buffers alive
            self.pooled = 0

    def write(self, buffer: Buffer, offset: int, data: np.ndarray) -> None:
        if data.nbytes % 4:  # writes are whole words; buffers are padded and views aligned, so the rest is nobody's
            data = np.concatenate([data.view(np.uint8), np.zeros(-data.nbytes % 4, np.uint8)])
        with self._lock:
            if id(buffer.handle) in self._touched:
                self._flush()
            self._guard(write_bytes, self.gpu.queue, buffer.handle, offset, data)

    def read(self, buffer: Buffer, offset: int, dtype: np.dtype, count: int) -> np.ndarray:
        if not count:
            return np.empty(0, dtype)
        nbytes = count * dtype.itemsize
        with self._lock:
            self._flush()
            raw = self._guard(self.gpu.queue.read_buffer, buffer.handle, offset, -(-nbytes // 4) * 4)
        return np.frombuffer(raw, np.uint8)[:nbytes].view(dtype).copy()

    def copy(self, source: Buffer, source_offset: int, target: Buffer, target_offset: int, nbytes: int) -> None:
        size = -(-nbytes // 4) * 4
        with self._lock:
            self._flush()
            encoder = self.gpu.create_command_encoder()
            encoder.copy_buffer_to_buffer(source.handle, source_offset, target.handle, target_offset, size)
            self._guard(self.gpu.queue.submit, [encoder.finish()])

    def memory(self) -> dict[str, int]:
        with self._lock:
            self._take_back()
        return {"in_use": self.in_use, "peak": self.peak, "pool": self.pooled}

    # ---- programs ----

    def _layout(self, spec: Spec) -> tuple[Any, Any]:
        access = tuple("read-only-storage" if a.access == "read" else "storage" for a in spec.kernel.args)
        if access not in self._layouts:
            compute = _wgpu().ShaderStage.COMPUTE
            entries = [{"binding": i, "visibility": compute, "buffer": {"type": kind}} for i, kind in enumerate(access)]
            entries.append({"binding": len(access), "visibility": compute,
                            "buffer": {"type": "uniform", "has_dynamic_offset": True}})
            layout = self.gpu.create_bind_group_layout(entries=entries)
            self._layouts[access] = layout, self.gpu.create_pipeline_layout(bind_group_layouts=[layout])
        return self._layouts[access]

    def build(self, spec: Spec) -> _Program:
        code = wgsl_source(spec, self.device)
        show(code, lambda: spirv(code))
        layout, pipeline_layout = self._layout(spec)
        try:
            module = self.gpu.create_shader_module(code=code, label=spec.stem)
            pipeline = self.gpu.create_compute_pipeline(
                layout=pipeline_layout, compute={"module": module, "entry_point": spec.kernel.name})
        except Exception as error:
            raise KernelError(f"[{spec.kernel.name}] shaders/{spec.stem}.wgsl does not compile on {self.device.name}: "
                              f"{error}\nDUALML_DEBUG=4 prints the source.") from error
        return _Program(pipeline, layout)

    def launch(self, program: Any, bindings: Sequence[Binding], params: bytes, groups: int) -> None:
        with self._lock:
            slot = len(self._pending) * SLOT
            self._params[slot:slot + len(params)] = params
            self._pending.append((program, self._bind_group(program, bindings), slot, groups))
            for bound in bindings:
                self._touched.add(id(bound.buffer.handle))
            if len(self._pending) == _BATCH:
                self._flush()

    def _bind_group(self, program: _Program, bindings: Sequence[Binding]) -> Any:
        key = (id(program.layout), *[(id(b.buffer.handle), b.offset, b.nbytes) for b in bindings])
        found = self._groups.get(key)
        if found is None:
            if len(self._groups) > 20000:
                self._groups.clear()
            # the bindings' handles are kept beside the group: an id in the key must not be taken over by a new object
            found = self.make_bind_group(program, bindings, self._uniforms)
            self._groups[key] = (found, [b.buffer.handle for b in bindings])
            return found
        return found[0]

    def make_bind_group(self, program: _Program, bindings: Sequence[Binding], uniforms: Any) -> Any:
        entries = [{"binding": i, "resource": {"buffer": b.buffer.handle, "offset": b.offset,
                                               "size": max(16, -(-b.nbytes // 16) * 16)}}
                   for i, b in enumerate(bindings)]
        entries.append({"binding": len(bindings), "resource": {"buffer": uniforms, "offset": 0, "size": SLOT}})
        return self._guard(self.gpu.create_bind_group, layout=program.layout, entries=entries)

    def freeze(self, launches: Sequence[Frozen]) -> Replay:
        frozen = self._guard(Encoded, self, launches, _wgpu().BufferUsage.UNIFORM)

        def replay(outputs: Sequence[Binding] = ()) -> list[Buffer]:
            with self._lock:
                self._flush()
                made: list[Buffer] = self._guard(frozen, outputs)
                self.submits += 1
                return made
        return replay

    def folded(self, groups: int) -> tuple[int, int]:
        """Columns and rows of so many workgroups: kernels count theirs as x + y * (number in x)."""
        rows = -(-groups // self.limits["max-compute-workgroups-per-dimension"])
        return -(-groups // rows), rows

    def _flush(self) -> None:
        if self._pending:
            pending, self._pending = self._pending, []
            self._touched.clear()
            self._guard(self._submit, pending)
            self.submits += 1

    def _submit(self, pending: list[tuple[_Program, Any, int, int]]) -> None:
        self.gpu.queue.write_buffer(self._uniforms, 0, self._params, 0, len(pending) * SLOT)
        encoder = self.gpu.create_command_encoder()
        if self._clock is not None:
            self._clock.submit(encoder, pending, self.folded)
            return
        scope = encoder.begin_compute_pass()
        last = None
        for program, group, slot, groups in pending:
            if program is not last:
                scope.set_pipeline(program.pipeline)
                last = program
            scope.set_bind_group(0, group, [slot])
            scope.dispatch_workgroups(*self.folded(groups))
        scope.end()
        self.gpu.queue.submit([encoder.finish()])

    def begin_timing(self) -> bool:
        if "timestamp-query" not in self.device.features:
            return False
        with self._lock:
            self._flush()
            self._clock = self._guard(Clock, self.gpu, _BATCH)
        return True

    def end_timing(self) -> list[float]:
        with self._lock:
            self._flush()
            clock, self._clock = self._clock, None
        return clock.seconds if clock else []

    def synchronize(self) -> None:
        with self._lock:
            self._flush()
            self._guard(self.gpu.queue.read_buffer, self._fence(), 0, 4)

    def _fence(self) -> Any:
        """wgpu-py's own wait raises TypeError in 0.32; reading a few bytes waits for all work before it too."""
        if not hasattr(self, "_fence_buffer"):
            self._fence_buffer = self._guard(self.gpu.create_buffer, size=4, usage=self._usage)
        return self._fence_buffer

    def _guard(self, call: Any, *args: Any, **named: Any) -> Any:
        try:
            return call(*args, **named)
        except Exception as error:
            raise _translate(error) from error


def _out_of_memory(error: Exception) -> bool:
    """wgpu-native reports some of them as validation errors."""
    return isinstance(error, _wgpu().GPUOutOfMemoryError) or "not enough memory" in str(error).lower()


def _translate(error: Exception) -> BackendError:
    text = str(error)
    cause = text.strip().splitlines()[-1].strip() if text.strip() else type(error).__name__
    if "lost" in text.lower():
        return DeviceLostError(f"[webgpu] the device was lost ({cause}). Start again from the last "
                               "checkpoint; a smaller batch keeps single launches below the driver's watchdog.")
    if _out_of_memory(error):
        return OutOfMemoryError(f"[webgpu] out of memory: {cause} Use a smaller batch or model.")
    return BackendError(f"[webgpu] {text}")


def _wgpu() -> Any:
    os.environ.setdefault("XDG_RUNTIME_DIR", "/tmp") if os.name == "posix" else None  # or the driver's loader complains
    lavapipe.prepare()
    try:
        import wgpu
        import wgpu.backends.wgpu_native
    except (ImportError, OSError, RuntimeError) as error:
        raise BackendError(f"[webgpu] wgpu-py cannot be loaded: {error}. Install it with pip install wgpu.") from error
    return wgpu


def adapters() -> list[Any]:
    """Adapters that can run us, best first: discrete, integrated, virtual, then CPU drivers."""
    order = ["DiscreteGPU", "IntegratedGPU", "Unknown", "CPU"]
    found = _wgpu().gpu.enumerate_adapters_sync()
    usable = [a for a in found if a.info["backend_type"] in ("Vulkan", "Metal", "D3D12")]
    return sorted(usable, key=lambda a: order.index(a.info["adapter_type"]) if a.info["adapter_type"] in order else 2)


def _pick_adapter() -> Any:
    found = adapters()
    wanted = config.adapter.lower()
    named = [a for a in found if wanted in f"{a.info['device']} {a.info['description']}".lower()]
    if named:
        return named[0]
    if found:
        have = ", ".join(a.info["device"] for a in found)
        raise BackendError(f"[webgpu] no adapter is called {config.adapter!r}; there are: {have}.")
    raise BackendError("[webgpu] no Vulkan, Metal or DX12 adapter answers. Install your GPU's driver; on Debian and "
                       "Ubuntu, apt-get install mesa-vulkan-drivers gives one that runs on the CPU.")
