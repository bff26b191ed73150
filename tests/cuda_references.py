"""CUDA's backend on the stand-in for CuPy, with kernels that compute: by their NumPy references."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

import dualml as dm
from dualml import runtime
from dualml.backends import cuda
from dualml.backends.base import Binding
from dualml.kernel import Spec
from tests.cupy_stand_in import Stream, at


@contextmanager
def references_compute(monkeypatch: pytest.MonkeyPatch) -> Iterator[WithReferences]:
    """Such a backend, the current one within; the stand-in is in place."""
    backend = WithReferences()
    monkeypatch.setitem(runtime._FACTORIES, backend.name, ("", ""))
    monkeypatch.setitem(runtime._open, backend.name, backend)
    with dm.use_backend(backend.name):
        yield backend


class WithReferences(cuda.CudaBackend):
    """Kernels of ours run as their NumPy references, on the stream that they are launched on."""

    name = "cuda_references"

    def build(self, spec: Spec) -> Any:
        return (self.vendor and self._vendor_program(spec)) or Reference(spec)


class Reference:
    """A program that computes by a kernel's reference."""

    def __init__(self, spec: Spec) -> None:
        self.spec, self.kernel = spec, spec.kernel

    def prepare(self, params: bytes, stream: Stream) -> None: ...

    def launch(self, bindings: Sequence[Binding], params: bytes, groups: int, stream: Stream) -> None:
        stream.do(lambda: self.compute([b.buffer.handle.ptr + b.offset for b in bindings], params))

    def compute(self, addresses: list[int], params: bytes) -> None:
        kernel, fields = self.kernel, np.frombuffer(params, self.spec.struct)[0]
        dims = dict(self.spec.constants) | {n: fields[n].item() for n, _ in kernel.params}
        shapes = [tuple(kernel.size(d, dims) for d in arg.dims) for arg in kernel.args]
        held = [at(a, self.spec.dtype(arg).device, math.prod(shape)).reshape(shape)
                for a, arg, shape in zip(addresses, kernel.args, shapes, strict=True)]
        given = [x.astype(self.spec.dtype(arg).host) for x, arg in zip(held, kernel.inputs, strict=False)]
        with np.errstate(all="ignore"):
            result = kernel.reference(*given, **{n: dims[n] for n, _ in kernel.scalars})
        targets = [*kernel.updated, *range(len(kernel.inputs), len(kernel.args))]
        for index, value in zip(targets, result if isinstance(result, tuple) else (result,), strict=True):
            held[index][...] = np.asarray(value).reshape(shapes[index])
