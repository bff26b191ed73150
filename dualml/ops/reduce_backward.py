"""Gradients of reductions: what each element of x[N,K,I] gets from the values y[N,I] of its column.

One rule is one expression in the spelling that WGSL and CUDA share, in both layouts of dualml/ops/folds.py. Where the
reduced dimensions are not neighbours, the values (not x) are expanded until only the last group of them is left.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..array import Array, Shape, run
from ..kernel import KERNELS, Kernel, make_kernel
from .folds import PIECE, ROW, column_lanes, last_reduced, merged
from .strided import expanded


@dataclass(frozen=True)
class Rule:
    """The gradient of a reduction in both layouts. `inputs` in order; x, if among them, is the only one with K."""

    inputs: tuple[str, ...]
    rows: Kernel
    columns: Kernel


def _reference(names: list[str], compute: Callable[..., np.ndarray]) -> Callable[..., np.ndarray]:
    def reference(*arrays: np.ndarray, S: int, scale: float = 1.0, K: int = 0, L: int = 0) -> np.ndarray:
        values = {n: a if n == "x" else a[:, None] for n, a in zip(names, arrays, strict=True)}
        if "x" in values:
            return compute(**values, scale=scale)
        dy = arrays[0]
        return np.ascontiguousarray(np.broadcast_to(compute(**values, scale=scale), (dy.shape[0], K, *dy.shape[1:])))
    return reference


def _rule(name: str, inputs: str, expression: str, compute: Callable[..., np.ndarray]) -> Rule:
    """Both kernels of a rule. `inputs` are x, y and dy in the op's dtype and statistics as `name:f32`."""
    names = [i.partition(":")[0] for i in inputs.split()]
    scalars = ("" if "x" in names else "K:u32 ") + ("scale " if "scale" in expression else "") + "S:u32"
    context = {"rule": expression, "names": names}
    tensors = [i + ("[N,K]" if i == "x" else "[N]") for i in inputs.split()]
    rows = make_kernel(
        _reference(names, compute), f"{' '.join(tensors)} -> dx[N,K] | {scalars}", name=f"{name}_backward_rows",
        groups="N*S", block=128, software_block=8, vector="K", source="reduce_backward_rows", context=context)
    tensors = [i + ("[N,K,I]" if i == "x" else "[N,I]") for i in inputs.split()]
    columns = make_kernel(
        _reference(names, compute), f"{' '.join(tensors)} -> dx[N,K,I] | {scalars} L:u32",
        name=f"{name}_backward_columns", groups="cdiv(N*I, min(L,BLOCK)*W)*S", block=256, software_block=8, vector="I",
        source="reduce_backward_columns", context=context)
    KERNELS[rows.name], KERNELS[columns.name] = rows, columns
    return Rule(tuple(names), rows, columns)


def _var(x: np.ndarray, mean: np.ndarray, dy: np.ndarray, scale: float) -> np.ndarray:
    dx: np.ndarray = (x - mean) * (dy * scale)
    return dx


def _std(x: np.ndarray, mean: np.ndarray, y: np.ndarray, dy: np.ndarray, scale: float) -> np.ndarray:
    dx: np.ndarray = (x - mean) * np.where(y > 0, dy * scale / y, 0)
    return dx


def _prod(x: np.ndarray, rest: np.ndarray, zeros: np.ndarray, dy: np.ndarray, scale: float) -> np.ndarray:
    hit = x == 0
    return np.where(zeros == hit, dy * rest / np.where(hit, x.dtype.type(1), x), 0)


def _logsumexp(x: np.ndarray, lse: np.ndarray, dy: np.ndarray, scale: float) -> np.ndarray:
    dx: np.ndarray = np.exp(x - lse)
    dx *= dy
    return dx


RULES = {
    "sum": _rule("sum", "dy", "dy * p.scale", lambda dy, scale: dy * scale),
    "max": _rule("max", "x y dy count:f32", "select(zero, dy / count, x == y)",
                 lambda x, y, dy, count, scale: np.where(x == y, dy / count, 0)),
    "prod": _rule("prod", "x rest:f32 zeros:f32 dy", "select(zero, dy * rest / select(x, one, x == zero), "
                  "zeros == select(zero, one, x == zero))", _prod),
    "var": _rule("var", "x mean:f32 dy", "dy * p.scale * (x - mean)", _var),
    "std": _rule("std", "x mean:f32 y:f32 dy", "select(zero, dy * p.scale / y, y > zero) * (x - mean)", _std),
    "logsumexp": _rule("logsumexp", "x lse:f32 dy", "dy * exp(x - lse)", _logsumexp),
}


def along(value: Array, shape: Shape, dims: Sequence[int]) -> Array:
    """A reduction's result, with values repeated along all groups of reduced dims but the last: [N*I]."""
    runs = merged(shape, dims)
    at, _ = last_reduced(runs)
    small = [1 if reduced else size for reduced, size in runs]
    large = [size for _, size in runs]
    return expanded(value.reshape(*small), [*large[:at], 1, *large[at + 1:]])


def spread(rule: str, shape: Shape, dims: Sequence[int], *arrays: Array, scale: float = 1.0,
           out: Array | None = None) -> Array:
    """The gradient of a reduction of `shape` over dims by a named rule.

    Args:
        arrays: the rule's inputs: x of `shape`, all others of the reduced shape.
        scale: the rule's scale.
        out: written into, if given.
    """
    found = RULES[rule]
    _, (n, k, i) = last_reduced(merged(shape, dims))
    rows = i == 1 and k >= ROW
    kernel = found.rows if rows else found.columns
    whole, one = ((n, k), (n,)) if rows else ((n, k, i), (n, i))
    inputs = [a.reshape(*whole) if name == "x" else along(a, shape, dims).reshape(*one)
              for name, a in zip(found.inputs, arrays, strict=True)]
    scalars: dict[str, Any] = {"S": max(1, k // PIECE)}
    if not rows:
        lanes, _ = column_lanes(n, k, i)
        scalars = {"S": max(1, k * lanes // 2048), "L": lanes}
    given = dict(kernel.scalars)
    scalars |= {name: value for name, value in (("scale", scale), ("K", k)) if name in given}
    made: Array = run(kernel, *inputs, out=(out,), **scalars)
    return out if out is not None else made.reshape(*shape)
