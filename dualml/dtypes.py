"""The dtypes of tensors: how each is named in Python, NumPy, WGSL and CUDA, and how they promote."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import ml_dtypes
import numpy as np

from .errors import DTypeError


@dataclass(frozen=True, eq=False)  # one object per dtype: identity is equality, and hashing stays cheap
class DType:
    """kind is f (floating), i (integer) or b (bool). `host` is the NumPy dtype users see, `device` what a GPU buffer
    holds: the same but for bool, which WebGPU cannot share with the host and which is a 32-bit 0 or 1 there."""

    name: str
    short: str
    kind: str
    host: np.dtype = field(repr=False)
    device: np.dtype = field(repr=False)
    wgsl: str = ""
    cuda: str = ""

    def __repr__(self) -> str:
        return f"dualml.{self.name}"

    @property
    def is_floating_point(self) -> bool:
        return self.kind == "f"


def _dtype(name: str, short: str, kind: str, host: type, wgsl: str, cuda: str, device: type | None = None) -> DType:
    return DType(name, short, kind, np.dtype(host), np.dtype(device or host), wgsl, cuda)


float32 = _dtype("float32", "f32", "f", np.float32, "f32", "float")
float64 = _dtype("float64", "f64", "f", np.float64, "", "")
float16 = _dtype("float16", "f16", "f", np.float16, "f16", "__half")
bfloat16 = _dtype("bfloat16", "bf16", "f", ml_dtypes.bfloat16, "", "__nv_bfloat16")
int32 = _dtype("int32", "i32", "i", np.int32, "i32", "int")
uint32 = _dtype("uint32", "u32", "i", np.uint32, "u32", "unsigned int")
bool_ = _dtype("bool", "bool", "b", np.bool_, "u32", "unsigned int", np.uint32)

ALL = (float32, float64, float16, bfloat16, int32, uint32, bool_)
BY_SHORT = {d.short: d for d in ALL}
_BY_NAME = {d.name: d for d in ALL} | BY_SHORT
_BY_HOST = {d.host: d for d in ALL}
_NARROWED = {np.dtype(np.int64): int32, np.dtype(np.uint8): int32, np.dtype(np.int16): int32, np.dtype(np.int8): int32,
             np.dtype(np.uint16): int32}


def as_dtype(value: object) -> DType:
    """A DType from itself, its name ("float32", "f32"), a NumPy dtype or a Python type (float, int, bool)."""
    if isinstance(value, DType):
        return value
    if isinstance(value, str) and value in _BY_NAME:
        return _BY_NAME[value]
    if isinstance(value, type) and value in (float, int, bool):
        return {float: float32, int: int32, bool: bool_}[value]
    try:
        return _BY_HOST[np.dtype(value)]  # type: ignore[call-overload]
    except (TypeError, KeyError):
        names = ", ".join(d.name for d in ALL)
        raise DTypeError(f"[dtype] expected one of {names}, got {value!r}.") from None


def from_numpy_dtype(value: np.dtype) -> DType:
    """The dtype a NumPy array becomes: integers of other widths become int32, everything else stays as it is."""
    if value in _NARROWED:
        return _NARROWED[value]
    return as_dtype(value)


_RANK = {bool_: 0, uint32: 1, int32: 1, float16: 2, bfloat16: 2, float32: 3, float64: 4}


def promote(*dtypes: DType) -> DType:
    """The dtype two tensors meet in: bool < int < 16-bit floats < float32 < float64; f16 with bf16 is f32."""
    best = max(dtypes, key=_RANK.__getitem__)
    if float16 in dtypes and bfloat16 in dtypes and _RANK[best] == 2:
        return float32
    return best


def promote_shaped(operands: Sequence[tuple[DType, int]]) -> DType:
    """The dtype that (dtype, dimensions) meet in. One without dimensions counts only where it is of a higher kind than
    those with: a float32 scalar times a float16 matrix is float16, times an int32 matrix float32."""
    kinds = "bif"
    whole = [dtype for dtype, ndim in operands if ndim]
    rank = max((kinds.index(d.kind) for d in whole), default=-1)
    return promote(*whole, *[d for d, ndim in operands if not ndim and kinds.index(d.kind) > rank])
