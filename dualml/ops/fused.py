"""Kernels made of several elementwise ones, for captured steps: one pass over memory in place of one each.

A Stage is one of them. Its operands are arrays of the whole, numbers of its own, or the results of stages before it.
Each result is rounded to its dtype, as if it had been stored, so that the bits are those of separate launches.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from ..dtypes import DType, float32
from ..kernel import Kernel, make_kernel
from .blocks import BLOCK, each, row_blocks
from .dropout import dropout_forward
from .elementwise import Operand
from .numpy_math import compile_expression

_WORD = re.compile(r"[A-Za-z_]\w*")


@dataclass(frozen=True)
class Stage:
    """`expression` names its operands x<array>, n<number> and v<stage>. A dropout has none: it drops out `source`.
    `result` is F, i32 or bool: the type letter, or the dtype of what it makes."""

    expression: str
    result: str
    source: str = ""
    number: int = 0  # of a dropout's offset, threshold and scale: d<number>_...

    @property
    def kind(self) -> str:
        """The type it is computed in."""
        return "f32" if self.result == "F" else self.result


@dataclass(frozen=True)
class Spread:
    """An array that stages read: its type (F, i32, bool) and how it is spread over the result, as in Operand."""

    type: str
    strides: tuple[int, ...] | None = None
    sizes: tuple[int, ...] = (0,)

    @property
    def kind(self) -> str:
        return "f32" if self.type == "F" else self.type

    def term(self) -> str:
        """The element index as an expression of i."""
        return Operand("", self.kind, strides=self.strides).term(self.sizes)

    @property
    def dense(self) -> bool:
        return self.strides is None

    @property
    def along(self) -> bool:
        """Whether four neighbours of the result are four of the array."""
        return self.dense or bool(self.strides and self.strides[-1] == 1)


@lru_cache(1024)
def fused_kernel(arrays: tuple[Spread, ...], numbers: tuple[str, ...], stages: tuple[Stage, ...],
                 outputs: tuple[int, ...], floating: DType = float32) -> Kernel:
    """The kernel of some stages, which stores the results of `outputs`. `numbers` are the types of n0, n1 ...; the
    state of dropouts, if there are any, is the last input. `floating` is what the letter F will stand for."""
    drops = [s for s in stages if s.source]
    wide = all(a.dense or not a.sizes[1:] or a.sizes[-1] % 4 == 0 for a in arrays)
    inputs = [f"x{k}:{a.type}[{'N' if a.dense else f'L{k}'}]" for k, a in enumerate(arrays)]
    inputs += ["state:u32[4]"] if drops else []
    scalars = [f"n{k}:{'f32' if kind == 'bool' else kind}" for k, kind in enumerate(numbers)]
    scalars += [f"d{s.number}_{name}" for s in drops for name in ("offset:u32", "threshold:u32", "scale")]
    if not any(a.dense for a in arrays):
        scalars.append("N:u32")
    results = [f"o{k}:{stages[k].result}[N]" for k in outputs]
    signature = f"{' '.join(inputs)} -> {' '.join(results)} | {' '.join(scalars)}"
    vector = " ".join(["N", *[f"L{k}" for k, a in enumerate(arrays) if not a.dense and a.along]]) if wide else ""
    return make_kernel(_reference(arrays, numbers, stages, outputs, floating), signature, name="fused",
                       source="fused", vector=vector, groups="cdiv(N, BLOCK * W)", block=256,
                       software_block=64, kinds={"F": "f"}, context={
                           "arrays": arrays, "numbers": numbers, "stages": stages, "outputs": outputs,
                           "dropout": bool(drops)})


def _reference(arrays: Sequence[Spread], kinds: Sequence[str], stages: Sequence[Stage],
               outputs: Sequence[int], floating: DType) -> Callable[..., Any]:
    """All stages for one block of elements after another, so that what is between them stays in a core's cache."""
    evaluate = [None if s.source else compile_expression(s.expression) for s in stages]

    def reference(*given: np.ndarray, N: int = 0, **numbers: Any) -> Any:
        size = next((x.size for a, x in zip(arrays, given, strict=False) if a.dense), N)
        state, flags = given[-1], {f"n{k}" for k, kind in enumerate(kinds) if kind == "bool"}
        numbers = {k: bool(v) if k in flags else v for k, v in numbers.items()}
        float_type = next((x.dtype for a, x in zip(arrays, given, strict=False) if a.type == "F"), np.dtype(np.float32))
        types = {"F": float_type, "i32": np.dtype(np.int32), "bool": np.dtype(np.bool_)}
        results = [np.empty(size, types[stages[k].result]) for k in outputs]
        whole = [x if a.dense else _spread(a, x, size) for a, x in zip(arrays, given, strict=False)]

        def work(part: slice) -> None:
            values: dict[str, Any] = dict(numbers) | {f"x{k}": x[part] for k, x in enumerate(whole)}
            for k, stage in enumerate(stages):
                if stage.source:
                    made = _dropped(values, stage, state, part)
                else:
                    made = evaluate[k](_used(values, stage.expression))  # type: ignore[misc]
                if stage.result == "F" and floating.host.itemsize == 2:  # computed in float32, stored in half of it
                    made = np.asarray(made).astype(floating.host)
                values[f"v{k}"] = np.broadcast_to(np.asarray(made), (part.stop - part.start,)).astype(
                    types[stage.result], copy=False)
            for k, out in zip(outputs, results, strict=True):
                out[part] = values[f"v{k}"]
        each(row_blocks(np.empty(size, np.int8), BLOCK), work)
        return results[0] if len(results) == 1 else tuple(results)
    return reference


def _used(values: dict[str, Any], expression: str) -> dict[str, Any]:
    words = set(_WORD.findall(expression))
    return {k: v for k, v in values.items() if k in words}


def _spread(array: Spread, x: np.ndarray, size: int) -> np.ndarray:
    """A broadcast array at the result's size."""
    inner = array.sizes[1:]
    shape = (size // math.prod(inner), *inner)
    assert array.strides is not None
    strides = [s * x.itemsize for s in array.strides]
    return np.lib.stride_tricks.as_strided(x, shape, strides, writeable=False).reshape(-1)


def _dropped(values: dict[str, Any], stage: Stage, state: np.ndarray, part: slice) -> np.ndarray:
    name = f"d{stage.number}_"
    offset = int(values[f"{name}offset"]) + part.start // 4
    made: np.ndarray = dropout_forward.reference(values[stage.source], state, offset, int(values[f"{name}threshold"]),
                                                 values[f"{name}scale"])
    return made


def kernel_cases(rng: np.random.Generator) -> Iterator[tuple[Kernel, tuple[np.ndarray, ...], dict[str, Any]]]:
    """Sample launches: chains of two results, broadcast rows and columns, flags, and dropouts of one state."""
    chain = fused_kernel((Spread("F"), Spread("F")), ("f32",), (Stage("x0 + x1", "F"), Stage("exp(v0 * n0)", "F"),
                                                               Stage("v1 > x0", "bool")), (0, 2))
    for size in (1, 7, 64, 1028):
        yield chain, (rng.standard_normal(size), rng.standard_normal(size)), {"n0": 0.5}
    rounding = fused_kernel((Spread("F"),), ("f32",), (Stage("floor_mod(x0, n0)", "F"),
                                                            Stage("floor_div(x0, v0)", "F")), (0, 1))
    yield rounding, (rng.standard_normal(36),), {"n0": 0.75}
    spread = fused_kernel((Spread("F"), Spread("F", (0, 1), (0, 12)), Spread("F", (1, 0), (0, 12)), Spread("bool")),
                          (), (Stage("x0 * x1", "F"), Stage("select(v0, x2, x3)", "F")), (1,))
    flags = rng.random(60) < 0.5
    yield spread, (rng.standard_normal(60), rng.standard_normal(12), rng.standard_normal(5), flags), {}
    state = np.array([1, 2, 2**32 - 3, 4], np.uint32)
    drops = fused_kernel((Spread("F"),), (), (Stage("", "F", "x0", 0), Stage("v0 * 2.0f", "F"),
                                              Stage("", "F", "v1", 1)), (0, 2))
    numbers = {"d0_offset": 3, "d0_threshold": 2**30, "d0_scale": 4 / 3,
               "d1_offset": 90, "d1_threshold": 2**31, "d1_scale": 2.0}
    for size in (4, 1032):
        yield drops, (rng.standard_normal(size), state), numbers
