"""Launches of a program file whose scalars say where a kernel reads and writes: they must stay inside its tensors.

NumPy and WebGPU notice what leads outside, but for the cpu backend's broadcasts; CUDA does not. Strided copies, matrix
products, attention and elementwise kernels are checked here, which are most of what takes such scalars.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from ..kernel import Kernel
from ..ops.elementwise import Operand


def check_reach(kernel: Kernel, dims: dict[str, Any]) -> None:
    """Raises ValueError for a launch that would leave its tensors."""
    if kernel.source == "elementwise":
        _elementwise(kernel, dims)
    elif kernel.source == "matmul":
        _product(kernel.name, dims)
    elif kernel.source in ("attention_forward", "attention_backward"):
        _attention(kernel.name, dims)
    elif kernel.name.startswith("cross_entropy_"):
        if "V" in dims and not min(1, dims["L"]) <= dims["V"] <= dims["L"]:
            raise ValueError(f"{kernel.name} has {dims['V']} classes in rows of {dims['L']}")
        if dims.get("D", 1) not in (1, dims["N"]):
            raise ValueError(f"{kernel.name} has {dims['D']} gradients for {dims['N']} rows")
    elif "partial" in {arg.name for arg in kernel.outputs} and dims["S"] < 1:
        raise ValueError(f"{kernel.name} has {dims['S']} groups of rows")  # it would go round for ever
    elif kernel.name.startswith("strided_"):
        _strided(kernel.name, dims)


def _inside(what: str, start: int, sizes: Sequence[int], strides: Sequence[int], room: int) -> None:
    """The walk start + i0*s0 + i1*s1 + ..., each i below its size, must stay in 0 .. room - 1."""
    if not all(sizes):
        return
    steps = [(n - 1) * s for n, s in zip(sizes, strides, strict=True)]
    low, high = start + sum(min(s, 0) for s in steps), start + sum(max(s, 0) for s in steps)
    if low < 0 or high >= room:
        raise ValueError(f"{what} reaches elements {low} to {high} of {room}")


def _elementwise(kernel: Kernel, dims: dict[str, Any]) -> None:
    operands: tuple[Operand, ...] = kernel.context["operands"]
    inner = kernel.context["sizes"][1:]
    rows, rest = divmod(int(dims["N"]), math.prod(inner))
    if rest:
        raise ValueError(f"{kernel.name} has {dims['N']} elements, which are no rows of {inner}")
    for operand in operands:
        if operand.strides is not None:
            _inside(f"{kernel.name} of {operand.name}", 0, (rows, *inner), operand.strides, dims[f"L{operand.name}"])


def _product(name: str, d: dict[str, Any]) -> None:
    d = {"BA": 1, "BB": 1, "B": 1, "has_bias": int("L" in d)} | d
    left = (d["K"], d["M"]) if d["ta"] else (d["M"], d["K"])
    right = (d["N"], d["K"]) if d["tb"] else (d["K"], d["N"])
    if (d["P"], d["Q"]) != left or (d["R"], d["S"]) != right or not {d["BA"], d["BB"]} <= {1, d["B"]} \
            or (name == "matmul_sums" and not d["N"]) \
            or max(d["ta"], d["tb"], d["has_bias"]) > 1 or (d["has_bias"] and d["L"] != d["N"]):
        raise ValueError(f"{name} has matrices of {d['P']}x{d['Q']} and {d['R']}x{d['S']} that do not make "
                         f"{d['B']}x{d['M']}x{d['N']}")


def _attention(name: str, d: dict[str, Any]) -> None:
    if d["KVH"] < 1 or d["H"] % d["KVH"] or ("S" in d and (d["S"] < 1 or d["B"] != 1 or d["TQ"] != d["TK"])):
        raise ValueError(f"{name} has {d['H']} heads of {d['TQ']} queries, and {d['KVH']} of {d['TK']} keys")
    queries, keys = [d["B"], d["H"], d["TQ"]], [d["B"], d["KVH"], d["TK"]]
    by = {side: [d[f"{side}_{axis}"] for axis in "bht"] for side in "qko"}
    _inside(f"{name} of q", 0, queries, by["q"], d["NQ"])
    _inside(f"{name} of out", 0, queries, by["o"], d.get("NO", math.prod(queries)))
    for side in ("k_at", "v_at"):
        _inside(f"{name} of {side[0]}", d[side], keys, by["k"], d["NK"])
    if "NG" in d:
        _inside(f"{name} of dq", 0, queries, by["q"], d["NG"])
        for side in ("gk_at", "gv_at"):
            _inside(f"{name} of d{side[1]}", d[side], keys, by["k"], d["NG"])
            if d[side] > d["NG"]:  # zeros are written up to there
                raise ValueError(f"{name} has {side} {d[side]} of {d['NG']} rows")


def _strided(name: str, d: dict[str, Any]) -> None:
    if name == "strided_transpose":
        sizes = [d[n] for n in ("n0", "n1", "n2", "N", "M")]
        _inside(name, d["start"], sizes, [d["s0"], d["s1"], d["s2"], 1, d["sm"]], d["L"] * d["V"])
        _inside(f"{name}'s result", 0, sizes, [d["o0"], d["o1"], d["o2"], d["on"], 1], math.prod(sizes))
        return
    sizes = [d[f"{'m' if name == 'strided_place' else 'n'}{i}"] for i in range(6)]
    _inside(name, d["start"], sizes, [d[f"s{i}"] for i in range(6)], d["L"])
    if name == "strided_place" and all(sizes):
        for i, count in enumerate(sizes):
            _inside(f"{name}'s result", d[f"b{i}"], [count], [d[f"t{i}"]], d[f"n{i}"])
    if name == "strided_write" and d["K"] != math.prod(sizes):
        raise ValueError(f"{name} has {d['K']} groups for {math.prod(sizes)} places")
