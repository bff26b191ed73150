"""What a backend is: nine methods that move bytes and run compiled kernels. No shape, gradient or op crosses it."""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..dtypes import DType
from ..errors import BackendError, DTypeError
from ..kernel import DeviceInfo, Spec


class Buffer:
    """Device memory of one backend, given back when the last reference goes. `version` counts writes from outside
    a kernel's outputs, so that autograd notices a saved value that was overwritten. `moved`: a parameter that lay here
    lies elsewhere now, so that captured steps notice that they read its former place."""

    __slots__ = ("__weakref__", "backend", "handle", "moved", "nbytes", "version")

    def __init__(self, backend: Backend, handle: Any, nbytes: int) -> None:
        self.backend = backend
        self.handle = handle
        self.nbytes = nbytes
        self.version = 0
        self.moved = False
        for watch in watchers:
            watch(self)

    def __del__(self) -> None:
        backend = getattr(self, "backend", None)  # half-made when alloc raised
        if backend is not None and sys is not None and not sys.is_finalizing():  # modules are being taken apart
            backend.free(self.handle, self.nbytes)


watchers: list[Callable[[Buffer], None]] = []  # told of each new Buffer; see memory.py


class Binding:
    """A stretch of a buffer that one kernel argument sees."""

    __slots__ = ("buffer", "nbytes", "offset")

    def __init__(self, buffer: Buffer, offset: int, nbytes: int) -> None:
        self.buffer = buffer
        self.offset = offset
        self.nbytes = nbytes


class Frozen:
    """One launch of a program that will be replayed, or a copy from its first binding to its second where `program` is
    None. `released`: temporaries that nothing reads after it. `after`: the launches that it must wait for where they
    do not run one after the other, as places in the list; they wait for others in turn."""

    __slots__ = ("after", "bindings", "groups", "params", "program", "released")

    def __init__(self, program: Any, bindings: Sequence[Binding], params: bytes, groups: int,
                 released: Sequence[Buffer] = (), after: Sequence[int] = ()) -> None:
        self.program = program
        self.bindings = bindings
        self.params = params
        self.groups = groups
        self.released = released
        self.after = after


Replay = Callable[[Sequence[Binding]], list[Buffer]]  # of what is returned, into buffers of their own


class Backend(ABC):
    """Offsets and sizes are in bytes. All work is in order: a read sees every launch before it."""

    name: str
    device: DeviceInfo
    dtypes: frozenset[DType]
    alignment: int = 256   # of a view's offset into a buffer
    streams: int = 1       # that a captured step is spread over; 1 where all launches run in order
    packs: bool = True     # whether a program's temporaries share buffers; not where results bring their own memory
    dlpack_device: tuple[int, int] = (1, 0)  # DLPack's kind of device (1: the host, 2: CUDA), and which of them

    def joins(self, what: str, dtype: DType) -> bool:
        """Whether products in `dtype` take on gelu, gelu_tanh or sums in ops (ops/matmul_epilogues.py)."""
        return False

    @property
    def own_products(self) -> bool:
        """Whether matrix products run as our kernel, rather than in a library."""
        return True

    def storage(self, dtype: DType) -> np.dtype:
        """The NumPy dtype of the bytes this backend keeps for a dtype."""
        return dtype.device

    def check_dtype(self, op: str, dtype: DType) -> None:
        if dtype not in self.dtypes:
            have = ", ".join(sorted(d.name for d in self.dtypes))
            raise DTypeError(f"[{op}] backend {self.name} on {self.device.name} has no {dtype.name}; it has {have}.")

    @abstractmethod
    def alloc(self, nbytes: int) -> Buffer:
        """Memory with arbitrary content. Raises OutOfMemoryError, or LimitError above the largest binding."""

    @abstractmethod
    def free(self, handle: Any, nbytes: int) -> None:
        """Takes a buffer's memory back; called by Buffer itself."""

    @abstractmethod
    def write(self, buffer: Buffer, offset: int, data: np.ndarray) -> None:
        """Host to device; `data` is contiguous and may be changed by the caller afterwards."""

    @abstractmethod
    def read(self, buffer: Buffer, offset: int, dtype: np.dtype, count: int) -> np.ndarray:
        """Device to host, after everything launched so far; a fresh 1-D array."""

    @abstractmethod
    def copy(self, source: Buffer, source_offset: int, target: Buffer, target_offset: int, nbytes: int) -> None:
        """Device to device."""

    @abstractmethod
    def build(self, spec: Spec) -> Any:
        """Compiles a specialised kernel; called once per Spec."""

    @abstractmethod
    def launch(self, program: Any, bindings: Sequence[Binding], params: bytes, groups: int) -> None:
        """Enqueues one kernel. `bindings` are in the kernel's argument order."""

    def freeze(self, launches: Sequence[Frozen]) -> Replay:
        """A function that enqueues the launches, in order, or such that each follows those it is `after`, each time it
        is called. It gives copies of the stretches that it is called with, which are the same each time."""
        def replay(outputs: Sequence[Binding] = ()) -> list[Buffer]:
            for one in launches:
                if one.program is None:
                    self.copy_bound(*one.bindings)
                else:
                    self.launch(one.program, one.bindings, one.params, one.groups)
            return self.copies(outputs)
        return replay

    def copies(self, stretches: Sequence[Binding]) -> list[Buffer]:
        """Copies in buffers of their own."""
        made = [self.alloc(source.nbytes) for source in stretches]
        for source, buffer in zip(stretches, made, strict=True):
            if source.nbytes:
                self.copy_bound(source, Binding(buffer, 0, source.nbytes))
        return made

    def copy_bound(self, source: Binding, target: Binding) -> None:
        """A copy of the target's size."""
        self.copy(source.buffer, source.offset, target.buffer, target.offset, target.nbytes)

    @abstractmethod
    def synchronize(self) -> None:
        """Returns when everything enqueued has run; raises what went wrong since."""

    def trim(self) -> None:
        """Gives pooled memory back to the driver, where there is a pool."""
        return

    def begin_timing(self) -> bool:
        """Starts to time launches on the device. False where there is no clock: then the host's must do."""
        return False

    def end_timing(self) -> list[float]:
        """Seconds of each launch since begin_timing."""
        return []

    def view(self, buffer: Buffer, offset: int, dtype: np.dtype, count: int) -> Any:
        """The memory itself, not a copy, as a 1-D array that speaks DLPack. Raises BackendError where there is none."""
        raise BackendError(f"[dlpack] memory of backend {self.name} cannot be shared. Use .to('cpu') first.")

    def memory(self) -> dict[str, int]:
        """Bytes in use, at peak, and held by the pool."""
        return {"in_use": 0, "peak": 0, "pool": 0}
