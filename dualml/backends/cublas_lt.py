"""cuBLASLt: a product and what else can be done as it is written or read: a bias, GELU, a bias's gradient.

Asked for by DUALML_CUBLASLT=1 until a GPU has shown that it pays (docs/decisions.md). Names and numbers are those of
cublasLt.h; a handle of cuBLAS is one of cuBLASLt too. https://docs.nvidia.com/cuda/cublas/#using-the-cublaslt-api
"""

from __future__ import annotations

import ctypes
import struct
from dataclasses import dataclass
from typing import Any

from ..errors import BackendError
from ..kernel import drop_oldest
from .base import Buffer

_COMPUTE_32F, _R_32F = 68, 0  # cublasComputeType_t: no TF32; cudaDataType
_TRANSA, _TRANSB, _EPILOGUE, _BIAS_POINTER, _BIAS_TYPE = 3, 4, 7, 8, 26  # CUBLASLT_MATMUL_DESC_
_AUX_POINTER, _AUX_WIDTH, _AUX_TYPE = 11, 12, 22  # CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_...
# CUBLASLT_EPILOGUE_BIAS; GELU_AUX_BIAS, which stores what GELU (by tanh) is taken of in aux; DGELU, which reads that;
# BGRADB, which adds up y's columns and stores the sums in place of a bias
ADD_BIAS, GELU, GELU_BACKWARD, SUMS = 4, 164, 192, 512
_WITH_BIAS, _WITH_AUX = (ADD_BIAS, GELU, SUMS), (GELU, GELU_BACKWARD)
_BATCH_COUNT, _BATCH_STEP = 5, 6  # CUBLASLT_MATRIX_LAYOUT_
_MOST_WORKSPACE, _REDUCTIONS, _ALIGNMENTS = 1, 3, (5, 6, 7, 8)  # CUBLASLT_MATMUL_PREF_; the last of A, B, C, D
_IN_FLOAT32 = 2  # CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE: pieces of k are summed in float32, in a fixed order
# bytes of cublasLtMatmulHeuristicResult_t, of cublasLtMatmulAlgo_t at its beginning, and where its `state` stands
_RESULT, _ALGORITHM, _STATE = 96, 64, 72
_MOST_PLANS = 512
_POINTER = ctypes.c_void_p


@dataclass(frozen=True, slots=True)
class Sizes:
    """out[m,n] = x[m,k] y[k,n], in columns, with an epilogue. `alignments` in bytes are of x, y, out, bias and aux."""

    m: int
    n: int
    k: int
    batch: int
    kind: int  # cudaDataType of all
    widths: tuple[int, int, int]
    steps: tuple[int, int, int]
    transposed: tuple[bool, bool]
    alignments: tuple[int, ...]
    epilogue: int


def alignment(address: int) -> int:
    """The largest power of two that divides an address, 256 at most."""
    return min(address & -address, 256)


class CublasLt:
    """Products on one stream, in a workspace of its own. What describes one is kept for the next of the same sizes."""

    def __init__(self, library: Any, handle: int, stream: int, workspace: Buffer) -> None:
        self.library, self.handle, self.stream, self.workspace = library, handle, stream, workspace
        self._plans: dict[Sizes, _Plan] = {}

    def product(self, sizes: Sizes, x: int, y: int, out: int, bias: int, aux: int, factors: int) -> None:
        """out = x y with the epilogue of `sizes`, rounded once. bias [m] (for SUMS [n]) and aux, which is stored like
        out, are 0 where the epilogue has none. `factors` is where 0 and 1 stand in float32."""
        plan = self._plans.get(sizes)
        if plan is None:
            if len(self._plans) >= _MOST_PLANS:
                drop_oldest(self._plans)
            plan = self._plans[sizes] = _Plan(self.library, self.handle, sizes, self.workspace.nbytes, bias, aux)
        plan.point_to(bias, aux)
        a, b, c = plan.layouts
        _check(self.library.cublasLtMatmul(
            _POINTER(self.handle), plan.work, _POINTER(factors + 4), _POINTER(x), a, _POINTER(y), b, _POINTER(factors),
            _POINTER(out), c, _POINTER(out), c, plan.algorithm, _POINTER(self.workspace.handle.ptr),
            ctypes.c_size_t(self.workspace.nbytes), _POINTER(self.stream)), "Matmul")


class _Plan:
    """Descriptors of a product and the algorithm that cuBLASLt chose for it."""

    def __init__(self, library: Any, handle: int, sizes: Sizes, workspace: int, bias: int, aux: int) -> None:
        self.library, self._made = library, list[tuple[str, Any]]()
        self.work = self._create("MatmulDesc", _COMPUTE_32F, _R_32F)
        self.epilogue = sizes.epilogue
        numbers = [(_TRANSA, sizes.transposed[0]), (_TRANSB, sizes.transposed[1]), (_EPILOGUE, sizes.epilogue)]
        numbers += [(_BIAS_TYPE, sizes.kind)] * (sizes.epilogue in _WITH_BIAS)
        numbers += [(_AUX_TYPE, sizes.kind)] * (sizes.epilogue in _WITH_AUX)
        for name, value in numbers:
            self._set("MatmulDesc", self.work, name, struct.pack("=i", value))
        if sizes.epilogue in _WITH_AUX:
            self._set("MatmulDesc", self.work, _AUX_WIDTH, struct.pack("=q", sizes.widths[2]))
        self.point_to(bias, aux)  # cuBLASLt asks how they are aligned
        turned = ((sizes.m, sizes.k), (sizes.k, sizes.n))
        shapes = [s[::-1] if t else s for s, t in zip(turned, sizes.transposed, strict=True)] + [(sizes.m, sizes.n)]
        self.layouts = [self._layout(sizes, *one) for one in zip(shapes, sizes.widths, sizes.steps, strict=True)]
        self.algorithm = self._choose(handle, sizes, workspace)

    def _create(self, kind: str, *given: Any) -> Any:
        made = _POINTER()
        _check(getattr(self.library, f"cublasLt{kind}Create")(ctypes.byref(made), *given), f"{kind}Create")
        self._made.append((kind, made))
        return made

    def _set(self, kind: str, made: Any, name: int, value: bytes) -> None:
        call = getattr(self.library, f"cublasLt{kind}SetAttribute")
        _check(call(made, name, value, ctypes.c_size_t(len(value))), f"{kind}SetAttribute")

    def _layout(self, sizes: Sizes, shape: tuple[int, int], width: int, step: int) -> Any:
        rows, columns = map(ctypes.c_uint64, shape)
        made = self._create("MatrixLayout", sizes.kind, rows, columns, ctypes.c_int64(width))
        self._set("MatrixLayout", made, _BATCH_COUNT, struct.pack("=i", sizes.batch))
        self._set("MatrixLayout", made, _BATCH_STEP, struct.pack("=q", step))
        return made

    def _choose(self, handle: int, sizes: Sizes, workspace: int) -> Any:
        wish = self._create("MatmulPreference")
        self._set("MatmulPreference", wish, _MOST_WORKSPACE, struct.pack("=Q", workspace))
        self._set("MatmulPreference", wish, _REDUCTIONS, struct.pack("=I", _IN_FLOAT32))
        x, y, out = sizes.alignments[:3]
        for name, value in zip(_ALIGNMENTS, (x, y, out, out), strict=True):
            self._set("MatmulPreference", wish, name, struct.pack("=I", value))
        found, count = ctypes.create_string_buffer(_RESULT), ctypes.c_int(0)
        a, b, c = self.layouts
        status = self.library.cublasLtMatmulAlgoGetHeuristic(_POINTER(handle), self.work, a, b, c, c, wish, 1, found,
                                                             ctypes.byref(count))
        if status or not count.value or struct.unpack_from("=i", found, _STATE)[0]:
            raise BackendError(f"[cuda] cuBLASLt has no way to make a product of {sizes.m} x {sizes.k} and {sizes.k} x "
                               f"{sizes.n} with epilogue {sizes.epilogue} (status {status}). Unset DUALML_CUBLASLT.")
        return ctypes.create_string_buffer(found.raw[:_ALGORITHM], _ALGORITHM)

    def point_to(self, bias: int, aux: int) -> None:
        for name, address, users in ((_BIAS_POINTER, bias, _WITH_BIAS), (_AUX_POINTER, aux, _WITH_AUX)):
            if self.epilogue in users:
                self._set("MatmulDesc", self.work, name, struct.pack("=Q", address))

    def __del__(self) -> None:
        for kind, made in self._made:
            getattr(self.library, f"cublasLt{kind}Destroy")(made)


def _check(status: int, call: str) -> None:
    if status:
        raise BackendError(f"[cuda] cublasLt{call} answered with status {status} (cublasStatus_t). Unset "
                           "DUALML_CUBLASLT, and it is not asked.")
