"""On what the tests run. A mode is a backend, or a backend made to choose as another device would.

A software Vulkan driver picks other block sizes and variants than a GPU does. So that the kernels a GPU would run are
tested without one, `webgpu_gpu` passes the driver off as a GPU, and `webgpu_plain` as one without subgroups. On CUDA,
cuBLAS makes the products; so that our kernels for them are tested on a device too, `cuda_own` is CUDA without it.
"""

from __future__ import annotations

import itertools
import os
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import numpy as np

from dualml import runtime
from dualml.backends.base import Buffer
from dualml.backends.cuda import CudaBackend
from dualml.backends.webgpu import WebGpuBackend
from dualml.errors import BackendError
from dualml.kernel import KERNELS
from tests import cuda_on_cpu  # noqa: F401  (registers the backend)

GUARD = 256  # bytes behind each buffer


class GuardedWebGpu(WebGpuBackend):
    """Buffers come filled with NaN, and what stands behind each is its own; `overruns` tells of writes there."""

    def __init__(self) -> None:
        super().__init__()
        self._words: dict[int, int] = {}
        self._count = itertools.count()
        self._unchecked: list[tuple[Any, int]] = []  # looked at later: a finalizer runs anywhere, and must do little

    def alloc(self, nbytes: int) -> Buffer:
        buffer = super().alloc(nbytes + GUARD)
        count = next(self._count)
        # NaN in float32 and in both halves; another one in each buffer, so that copying one guard over another shows
        word = 0x7FA07D00 + (count // 0xFF % 0x1F << 16) + count % 0xFF
        self._words[id(buffer.handle)] = word
        self.write(buffer, 0, np.full(-(-nbytes // 4) + GUARD // 4, word, np.uint32))
        buffer.nbytes = nbytes
        return buffer

    def free(self, handle: Any, nbytes: int) -> None:
        self._unchecked.append((handle, nbytes))

    def overruns(self) -> list[str]:
        """What was found behind buffers freed since the last call; they go back to the pool."""
        freed, self._unchecked, found = self._unchecked, [], []
        for handle, nbytes in freed:
            padded = -(-nbytes // 4) * 4  # transfers are whole words
            behind = self.read(SimpleNamespace(handle=handle), padded, np.dtype(np.uint32), GUARD // 4 - 1)
            changed = np.flatnonzero(behind != self._words[id(handle)])
            if changed.size:
                found.append(f"{padded - nbytes + 4 * changed[0]} bytes behind a buffer of {nbytes} bytes")
            super().free(handle, nbytes + GUARD)
        return found


class AsGpu(GuardedWebGpu):
    """Chooses block sizes and variants like a GPU."""

    name = "webgpu_gpu"

    def __init__(self) -> None:
        super().__init__()
        self.device = replace(self.device, software=False)


class Plain(GuardedWebGpu):
    """A GPU without subgroup operations: the least that a browser promises."""

    name = "webgpu_plain"

    def __init__(self) -> None:
        super().__init__()
        self.device = replace(self.device, software=False, subgroup_size=0)


class Guarded(GuardedWebGpu):
    name = "webgpu_guarded"


class OwnProducts(CudaBackend):
    """Our kernels make the products, which cuBLAS makes elsewhere."""

    name = "cuda_own"
    vendor = False


for _name, _kind in (("webgpu_guarded", "Guarded"), ("webgpu_gpu", "AsGpu"), ("webgpu_plain", "Plain"),
                     ("cuda_own", "OwnProducts")):
    runtime.register_backend(_name, __name__, _kind)


@dataclass(frozen=True)
class Mode:
    """`backend` runs it, `of` is the backend whose name users know; `dtypes` are tested where the device has them.
    `products`: it runs those alone, as all else is what another mode runs."""

    name: str
    backend: str
    of: str
    dtypes: tuple[str, ...] = ("float32",)
    products: bool = False

    def runs(self, name: str) -> bool:
        """Whether an op or a kernel of that name is tested in it."""
        return not self.products or is_product(name)


def is_product(name: str) -> bool:
    """Whether an op or a kernel makes matrix products: by its name, or that of the kernel's source."""
    source = KERNELS[name].source if name in KERNELS else name
    return any(word.startswith(("matmul", "linear")) for word in (name, source))


MODES = (
    Mode("cpu", "cpu", "cpu", ("float32", "float16", "bfloat16")),
    Mode("webgpu", "webgpu_guarded", "webgpu", ("float32", "float16", "bfloat16")),
    Mode("webgpu as a GPU", "webgpu_gpu", "webgpu"),
    Mode("webgpu without subgroups", "webgpu_plain", "webgpu"),
    Mode("cuda_on_cpu", "cuda_on_cpu", "cuda_on_cpu", ("float32", "float16", "bfloat16")),
    Mode("cuda", "cuda", "cuda", ("float32", "float16", "bfloat16")),
    Mode("cuda without cuBLAS", "cuda_own", "cuda", ("float32", "float16", "bfloat16"), products=True),
)
BACKENDS = ("cpu", "webgpu", "cuda_on_cpu", "cuda")
REQUIRED = tuple(n.strip() for n in os.environ.get("DUALML_REQUIRE", "").split(",") if n.strip())


def _missing() -> dict[str, str]:
    """Backends that do not answer, with the reason. What is not required is not asked for where anything is."""
    found = {}
    for name in BACKENDS:
        try:
            runtime.get(name)
        except BackendError as error:
            found[name] = str(error)
    return found


MISSING = _missing()
PRESENT = tuple(n for n in BACKENDS if n not in MISSING)


def _useful(mode: Mode) -> bool:
    """The pretended GPUs tell nothing new on a real one."""
    return mode.of in PRESENT and (mode.backend not in ("webgpu_gpu", "webgpu_plain")
                                   or runtime.get("webgpu").device.software or mode.backend == "webgpu_plain")


TESTED = tuple(m for m in MODES if _useful(m))
