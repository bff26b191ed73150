"""Checks of a program file's small parts. Each raises ValueError with what is wrong."""

from __future__ import annotations

import math
from typing import Any

from ..dtypes import DType, as_dtype, float64, uint32
from ..kernel import Kernel, Scalar
from .step import leaf


def whole(value: Any, what: str, below: int = 2**53) -> int:
    """A number from 0 on, or a ValueError."""
    if type(value) is not int or not 0 <= value < below:
        raise ValueError(f"{what} must be a whole number from 0 to {below - 1}, got {str(value)[:40]}")
    return value


def read_dims(kernel: Kernel, given: Any) -> dict[str, Scalar]:
    """Sizes and scalars of a launch, all of them and no others."""
    kinds = dict.fromkeys(kernel.dims, uint32) | dict(kernel.scalars)
    if not isinstance(given, dict) or given.keys() != kinds.keys():
        raise ValueError(f"{kernel.name} must have dims {', '.join(kinds)}, got {str(sorted(map(str, given)))[:120]}")
    dims: dict[str, Scalar] = {}
    for name, dtype in kinds.items():
        value = given[name]
        if dtype.kind == "f":
            number = float(value) if value in ("inf", "-inf", "nan") or type(value) in (int, float) else None
            if number is None or (math.isfinite(number) and abs(number) > 3.4028235e38):
                raise ValueError(f"{kernel.name} has {name} {str(value)[:40]}, which is no float32")
            dims[name] = number
        else:
            low, high = (-2**31, 2**31) if dtype.name == "int32" else (0, 2**32)
            if type(value) is not int or not low <= value < high:
                raise ValueError(f"{kernel.name} has {name} {str(value)[:40]}, which is no {dtype.name}")
            dims[name] = value
    shapes = [tuple(kernel.size(d, dims) for d in arg.dims) for arg in kernel.inputs]
    if any(n < 0 for shape in shapes for n in shape):
        raise ValueError(f"{kernel.name} has a negative size")
    return kernel.bind(shapes, {n: dims[n] for n, _ in kernel.scalars})


def read_types(kernel: Kernel, given: Any) -> tuple[tuple[str, DType], ...]:
    """The dtype of each letter of a kernel."""
    letters = {a.type for a in kernel.args if len(a.type) == 1}
    if not isinstance(given, dict) or given.keys() != letters or not all(isinstance(v, str) for v in given.values()):
        raise ValueError(f"{kernel.name} must have types for {', '.join(sorted(letters)) or 'nothing'}")
    types = {letter: as_dtype(name) for letter, name in given.items()}
    wide = float64 in types.values()
    inputs = [types.get(a.type) or (float64 if wide and a.type == "f32" else as_dtype(a.type)) for a in kernel.inputs]
    bound = {a.type for a in kernel.inputs}
    return kernel.bind_types(inputs, {letter: t for letter, t in types.items() if letter not in bound})


def structure_of(entry: Any, outputs: int, depth: int = 0) -> Any:
    """What a call returns, as step.py keeps it."""
    if not isinstance(entry, dict) or len(entry) != 1 or depth > 50:
        raise ValueError("returns must be nested lists, tuples and dicts of tensors and values")
    (kind, value), = entry.items()
    if kind == "tensor":
        number = whole(value, "tensor")
        if number >= outputs:
            raise ValueError(f"output {number} is not there, of {outputs}")
        return leaf(number)
    if kind in ("list", "tuple") and isinstance(value, list):
        return {"list": list, "tuple": tuple}[kind], tuple([structure_of(v, outputs, depth + 1) for v in value])
    if kind == "dict" and isinstance(value, list):
        return dict, tuple([(str(k), structure_of(v, outputs, depth + 1)) for k, v in value])
    if kind == "value" and (value is None or isinstance(value, (bool, int, float, str))):
        return value
    raise ValueError(f"returns has {kind[:40]!r}, which is nothing")
