"""cuBLAS for the kernel matmul on the cuda backend: the same contract as cuda/matmul.cu, float32 sums, no TF32. With
DUALML_CUBLASLT=1 cuBLASLt adds biases, and makes the products of ops/matmul_epilogues.py.

cuBLAS thinks in columns. A row-major matrix is, to it, its transpose; so it is told to make out^T = b^T a^T, and what
is stored transposed is marked, never copied.

CuPy makes the handle, but its own calls of cuBLAS refuse to be recorded in a CUDA graph, and set the stream at each
call, which takes back a workspace. So the library that it loaded is called directly.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from .. import dtypes
from ..config import config
from ..dtypes import DType
from ..errors import BackendError
from ..kernel import Spec
from .base import Backend, Binding, Buffer
from .cublas_lt import ADD_BIAS, GELU, GELU_BACKWARD, SUMS, CublasLt, Sizes, alignment

_TYPES = {dtypes.float32: 0, dtypes.float16: 2, dtypes.bfloat16: 14}  # cudaDataType: CUDA_R_32F, _16F, _16BF
_COMPUTE_32F, _DEFAULT_ALGORITHM = 68, -1
_INT, _LONG, _POINTER = ctypes.c_int, ctypes.c_longlong, ctypes.c_void_p
_GEMM = [_POINTER, *[_INT] * 5, _POINTER, *[_POINTER, _INT, _INT, _LONG] * 2, _POINTER, _POINTER, _INT, _INT, _LONG,
         *[_INT] * 3]
_EPILOGUES = {"matmul_gelu": GELU, "matmul_gelu_backward": GELU_BACKWARD, "matmul_sums": SUMS}
_STORED = {GELU: (0, 1), GELU_BACKWARD: (0, 0), SUMS: (1, 0)}  # ta and tb in a layer's passes
_WORKSPACE = (4 << 20, 32 << 20)  # bytes that NVIDIA advises, before Hopper and from there on
_FULL_PRECISION_SUMS = 16  # CUBLAS_DEFAULT_MATH (no TF32) | CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION


@dataclass(frozen=True, slots=True)
class Matrix:
    """A stack of matrices as cuBLAS sees them: columns `width` elements apart, matrices `step`."""

    address: int
    width: int
    step: int = 0
    transposed: bool = False


def _library(name: str, version: int) -> Any:
    """The cublas that CuPy has loaded, or the cublasLt that came with it, by the name this process knows it under."""
    major = version // 10000
    return ctypes.CDLL(f"{name}64_{major}.dll" if os.name == "nt" else f"lib{name}.so.{major}")


class Cublas:
    """A handle of cuBLAS that works on one stream, in memory that it was given: one that has to ask for its own while a
    CUDA graph is recorded would spoil it, and two streams on one workspace would spoil each other's sums."""

    def __init__(self, cupy: Any, stream: Any, backend: Backend) -> None:
        try:
            vendor = cupy.cuda.cublas
            self.handle = vendor.create()
            library = _library("cublas", vendor.getVersion(self.handle))
            self._load_light = partial(_library, "cublasLt", vendor.getVersion(self.handle))
        except (ImportError, AttributeError, OSError) as error:
            raise _unloaded(error) from error
        self.runtime, self.stream = cupy.cuda.runtime, stream
        vendor.setMathMode(self.handle, _FULL_PRECISION_SUMS)
        self.numbers = np.array([0, 1], np.float32)  # where cuBLAS reads its factors
        self.workspace = backend.alloc(_WORKSPACE[backend.device.arch >= 90])
        self._light: CublasLt | None = None
        self._gemm = library.cublasGemmStridedBatchedEx
        self._gemm.argtypes = _GEMM
        _check(library.cublasSetStream_v2(ctypes.c_void_p(self.handle), ctypes.c_void_p(stream.ptr)))
        _check(library.cublasSetWorkspace_v2(ctypes.c_void_p(self.handle), ctypes.c_void_p(self.workspace.handle.ptr),
                                             ctypes.c_size_t(self.workspace.nbytes)))  # last: a new stream drops it

    @property
    def light(self) -> CublasLt:
        """cuBLASLt for the same stream, loaded when it is first asked."""
        if self._light is None:
            try:
                self._light = CublasLt(self._load_light(), self.handle, self.stream.ptr, self.workspace)
            except OSError as error:
                raise _unloaded(error) from error
        return self._light

    def clear(self, address: int, nbytes: int) -> None:
        self.runtime.memsetAsync(address, 0, nbytes, self.stream.ptr)

    def product(self, dtype: DType, x: Matrix, y: Matrix, out: Matrix, m: int, n: int, k: int, batch: int = 1,
                add: bool = False) -> None:
        """out = x y, or out += x y where `add`; x is m x k, y is k x n, out is m x n."""
        kind, zero, one = _TYPES[dtype], self.numbers.ctypes.data, self.numbers.ctypes.data + 4
        _check(self._gemm(
            self.handle, int(x.transposed), int(y.transposed), m, n, k, one, x.address, kind, x.width, x.step,
            y.address, kind, y.width, y.step, one if add else zero, out.address, kind, out.width, out.step, batch,
            _COMPUTE_32F, _DEFAULT_ALGORITHM))

    def joined(self, epilogue: int, dtype: DType, x: Matrix, y: Matrix, out: Matrix, m: int, n: int, k: int,
               batch: int = 1, bias: int = 0, aux: int = 0) -> None:
        """out = x y with an epilogue, by cuBLASLt."""
        aligned = tuple(map(alignment, (x.address, y.address, out.address, bias, aux)))
        sizes = Sizes(m, n, k, batch, _TYPES[dtype], (x.width, y.width, out.width), (x.step, y.step, out.step),
                      (x.transposed, y.transposed), aligned, epilogue)
        self.light.product(sizes, x.address, y.address, out.address, bias, aux, self.numbers.ctypes.data)


def _check(status: int) -> None:
    if status:
        raise BackendError(f"[cuda] cuBLAS answered with status {status} (cublasStatus_t).")


def _unloaded(error: Exception) -> BackendError:
    return BackendError(f"[cuda] cuBLAS cannot be loaded: {error}. Install the CUDA toolkit, or what of it we need: "
                        "pip install 'cupy-cuda12x[ctk]' or 'cupy-cuda13x[ctk]'.")


def _size_of(spec: Spec, params: bytes) -> dict[str, int]:
    fields = np.frombuffer(params, spec.struct)[0]
    return {n: int(fields[n]) for n in spec.struct.names or ()} | {n: int(v) for n, v in spec.constants}


def _has_sides(size: dict[str, int]) -> bool:
    """Whether no side is of one or none: of such cuBLASLt refuses some, says PyTorch's native/cuda/Blas.cpp, which asks
    it for none either."""
    return min(size["M"], size["N"], size["K"]) > 1


class Matmul:
    """The program of a matmul Spec. A bias is put into out first, as its product with a column of ones; the matrix
    product is then added in float32 and rounded once, as the hand-written kernel does. Or cuBLASLt does both."""

    @staticmethod
    def takes(spec: Spec) -> bool:
        return spec.kernel.name == "matmul" and all(t in _TYPES for _, t in spec.types)

    def __init__(self, cublas: Callable[[Any], Cublas], backend: Backend, spec: Spec) -> None:
        self.cublas, self.backend, self.spec = cublas, backend, spec
        self.dtype = spec.types[0][1]
        self.ones: Buffer | None = None

    def prepare(self, params: bytes, stream: Any) -> Buffer | None:
        """Makes what a launch on this stream needs, and returns the memory that it reads besides its buffers. Keep that
        as long as a recorded launch lives: a larger one will get another."""
        self.cublas(stream)
        size = _size_of(self.spec, params)
        return self._ones(size["M"] * size["B"]) if size["has_bias"] and not self._light_adds(size) else None

    def _light_adds(self, size: dict[str, int]) -> bool:
        """Whether cuBLASLt makes the product and adds its bias."""
        return config.cublaslt and bool(size["has_bias"]) and _has_sides(size)

    def _ones(self, count: int) -> Buffer:
        itemsize = self.dtype.device.itemsize
        if self.ones is None or self.ones.nbytes < count * itemsize:
            self.ones = self.backend.alloc(2 * count * itemsize)
            self.backend.write(self.ones, 0, np.ones(2 * count, self.dtype.device))
        return self.ones

    def launch(self, bindings: Sequence[Binding], params: bytes, groups: int, stream: Any) -> None:
        size, cublas = _size_of(self.spec, params), self.cublas(stream)
        m, n, k, batch = size["M"], size["N"], size["K"], size["B"]
        a, b, bias, out = (bound.buffer.handle.ptr + bound.offset for bound in bindings)
        x = Matrix(b, k if size["tb"] else n, 0 if size["BB"] == 1 else k * n, bool(size["tb"]))
        y = Matrix(a, m if size["ta"] else k, 0 if size["BA"] == 1 else m * k, bool(size["ta"]))
        made = Matrix(out, n, m * n)
        if self._light_adds(size):
            cublas.joined(ADD_BIAS, self.dtype, x, y, made, n, m, k, batch, bias=bias)
            return
        if size["has_bias"]:
            rows = m * batch
            ones: int = self._ones(rows).handle.ptr
            cublas.product(self.dtype, Matrix(bias, n), Matrix(ones, 1), Matrix(out, n), n, rows, 1)
        elif not k:
            cublas.clear(out, bindings[-1].nbytes)
        if k:
            cublas.product(self.dtype, x, y, made, n, m, k, batch, add=bool(size["has_bias"]))


def has_epilogue(what: str, dtype: DType) -> bool:
    """Of GELU cuBLASLt has the one by tanh alone (so says NVIDIA/TensorRT-LLM's pull request 17693), equal to it within
    the rounding of 16 bits (sgl-project/sglang's pull request 28419); for float32 nobody says how near it is."""
    return what == "sums" or (what == "gelu_tanh" and dtype is not dtypes.float32)


class Joined:
    """The program of a matmul with an epilogue by cuBLASLt. Our kernel, `own`, makes what that cannot (its aux has rows
    of a multiple of eight elements) and what is not tried: sides of one, operands stored as no layer has them."""

    @staticmethod
    def takes(spec: Spec) -> bool:
        tanh = dict(spec.constants).get("approximate", 0)
        what = "sums" if spec.kernel.name == "matmul_sums" else "gelu_tanh" if tanh else "gelu"
        return config.cublaslt and spec.kernel.name in _EPILOGUES and has_epilogue(what, spec.types[0][1])

    def __init__(self, cublas: Callable[[Any], Cublas], own: Callable[[], Any], spec: Spec) -> None:
        self.cublas, self.spec, self.dtype = cublas, spec, spec.types[0][1]
        self.epilogue = _EPILOGUES[spec.kernel.name]
        self._own, self._make_own = None, own

    def _other(self, size: dict[str, int]) -> Any:
        """Our kernel where it has to do it, made once."""
        if (size["ta"], size["tb"]) == _STORED[self.epilogue] and _has_sides(size) \
                and (self.epilogue == SUMS or size["N"] % 8 == 0):
            return None
        self._own = self._own or self._make_own()
        return self._own

    def prepare(self, params: bytes, stream: Any) -> None:
        """Makes what a launch on this stream needs."""
        if self._other(_size_of(self.spec, params)) is None:
            _ = self.cublas(stream).light

    def launch(self, bindings: Sequence[Binding], params: bytes, groups: int, stream: Any) -> None:
        size = _size_of(self.spec, params)
        if other := self._other(size):
            other.launch(bindings, params, groups, stream)
            return
        at = {arg.name: bound.buffer.handle.ptr + bound.offset
              for arg, bound in zip(self.spec.kernel.args, bindings, strict=True)}
        m, n, k = size["M"], size["N"], size["K"]
        x = Matrix(at["b"], k if size["tb"] else n, transposed=bool(size["tb"]))
        y = Matrix(at["a"], m if size["ta"] else k, transposed=bool(size["ta"]))
        self.cublas(stream).joined(self.epilogue, self.dtype, x, y, Matrix(at["out"], n), n, m, k,
                                   bias=at.get("bias", at.get("sums", 0)), aux=at.get("pre", 0))
