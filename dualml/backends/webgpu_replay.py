"""A frozen list of WebGPU launches: bind groups made once, parameters uploaded once, and encoding by direct calls of
wgpu-native, without the checks that wgpu-py makes at every call (three calls a launch, ten microseconds each)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import BackendError
from .base import Binding, Buffer, Frozen

if TYPE_CHECKING:
    from .webgpu import WebGpuBackend

AHEAD = 16  # replays encoded at once: the first finds cold caches, the others warm ones
HELD = 1 << 20  # bytes that results of replays to come may take meanwhile
SLOT = 256  # bytes of a launch's parameters, the alignment of dynamic offsets


@cache
def native() -> tuple[Any, Any]:
    """wgpu-native's functions, and what converts their arguments. Loaded when a device is opened."""
    from wgpu.backends.wgpu_native import ffi, lib
    return ffi, lib


def write_bytes(queue: Any, handle: Any, offset: int, data: np.ndarray) -> None:
    """queue.write_buffer with one check in place of its many."""
    ffi, lib = native()
    if offset + data.nbytes > handle.size:
        raise BackendError(f"[write] {data.nbytes} bytes from {offset} on do not fit a buffer of {handle.size}.")
    lib.wgpuQueueWriteBuffer(queue._internal, handle._internal, offset, ffi.from_buffer(data), data.nbytes)


class Encoded:
    """Submits the launches each time it is called, from command buffers that are encoded some replays ahead: the list
    never changes, all that does lives in buffers. Copies between buffers end one pass and begin another."""

    def __init__(self, backend: WebGpuBackend, launches: Sequence[Frozen], usage: int) -> None:
        ffi, lib = native()
        self.backend, self.launches = backend, list(launches)  # the launches keep their buffers
        self._calls = (lib.wgpuComputePassEncoderSetPipeline, lib.wgpuComputePassEncoderSetBindGroup,
                       lib.wgpuComputePassEncoderDispatchWorkgroups)
        params = bytearray(max(1, len(self.launches)) * SLOT)
        for index, one in enumerate(self.launches):
            params[index * SLOT:index * SLOT + len(one.params)] = one.params
        self._uniforms = backend.gpu.create_buffer_with_data(data=params, usage=usage)
        self._groups: list[Any] = []
        self._singly = 2  # first replays encoded one by one: the driver keeps the memory of what is never submitted
        self._ready: list[tuple[Any, list[Buffer]]] = []  # command buffers with what they copy results to
        self._passes: list[list[tuple[Any, ...]] | Frozen] = []
        for index, one in enumerate(self.launches):
            if one.program is None:
                self._passes.append(one)
                continue
            if not self._passes or isinstance(self._passes[-1], Frozen):
                self._passes.append([])
            group = backend.make_bind_group(one.program, one.bindings, self._uniforms)
            self._groups.append(group)
            offsets = ffi.new("uint32_t[]", [index * SLOT])
            dispatches = self._passes[-1]
            assert isinstance(dispatches, list)
            dispatches.append((one.program.pipeline._internal, group._internal, offsets, *backend.folded(one.groups)))

    def __call__(self, outputs: Sequence[Binding]) -> list[Buffer]:
        if not self._ready:
            size = sum(source.nbytes for source in outputs)
            ahead = max(1, min(AHEAD, HELD // max(1, size))) if self._singly == 0 else 1
            self._singly = max(0, self._singly - 1)
            self._ready = [self._commands(outputs) for _ in range(ahead)]
        commands, made = self._ready.pop()
        self.backend.gpu.queue.submit([commands])
        return made

    def _commands(self, outputs: Sequence[Binding]) -> tuple[Any, list[Buffer]]:
        made = [self.backend.alloc(source.nbytes) for source in outputs]
        encoder = self.backend.gpu.create_command_encoder()
        for part in self._passes:
            if isinstance(part, Frozen):
                self._copy(encoder, *part.bindings)
            else:
                self._encode(encoder, part)
        for source, buffer in zip(outputs, made, strict=True):
            if source.nbytes:
                self._copy(encoder, source, Binding(buffer, 0, source.nbytes))
        return encoder.finish(), made

    @staticmethod
    def _copy(encoder: Any, source: Binding, target: Binding) -> None:
        encoder.copy_buffer_to_buffer(source.buffer.handle, source.offset, target.buffer.handle, target.offset,
                                      -(-target.nbytes // 4) * 4)

    def _encode(self, encoder: Any, dispatches: list[tuple[Any, ...]]) -> None:
        set_pipeline, set_bind_group, dispatch = self._calls
        scope = encoder.begin_compute_pass()
        handle, last = scope._internal, None
        for pipeline, group, offsets, columns, rows in dispatches:
            if pipeline is not last:
                set_pipeline(handle, pipeline)
                last = pipeline
            set_bind_group(handle, 0, group, 1, offsets)
            dispatch(handle, columns, rows, 1)
        scope.end()
