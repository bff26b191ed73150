"""Rope: rotary position embedding (Su et al. 2021, arXiv 2104.09864), in the half-split layout of Llama and GPT-NeoX.

A head of size D = 2R at position s is turned in the R planes (i, i + R) by the angles s f_i:
    out[i] = x[i] cos - x[i + R] sin,        out[i + R] = x[i + R] cos + x[i] sin.
`table` [S,2,R] holds cos and sin of every position, made on the host in float64: all ways of scaling the frequencies
are tables. A turn's gradient is the turn back.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from ..array import Array, run
from ..dtypes import int32
from ..errors import DTypeError, ShapeError
from ..kernel import kernel
from .base import BadCase, Case, Gradients, Op

# ---- kernel ---------------------------------------------------------------------------------------------------------


@kernel("x[M,R] table:G[L,R] starts:i32[P] -> out[M,R] | T:u32 offset:u32 sign heads:u32 turned:u32",
        groups="cdiv(M // 2 * (R // W), BLOCK)", software_block=64, static="R heads turned", vector="R")
def rope_turn(x: Any, table: Any, starts: Any, T: int, offset: int, sign: float, heads: int, turned: int) -> Any:
    """Turns the first `turned` of `heads` heads, two rows each, and copies the others. Token n is at the position
    offset + n % T, plus the start of its sequence n / T if there are any. NaN where the table does not reach."""
    tokens = np.arange(len(x) // (2 * heads))
    at = offset + tokens % T
    if len(starts):
        at = at + starts[0 if len(starts) == 1 else tokens // T]
    inside = (at >= 0) & (at < len(table) // 2)
    cos, sin = np.where(inside, table.reshape(-1, 2, x.shape[1])[np.where(inside, at, 0)].transpose(1, 2, 0), np.nan)
    cos, sin = cos.T[:, None].astype(x.dtype), sin.T[:, None].astype(x.dtype) * x.dtype.type(sign)
    pairs = x.reshape(len(tokens), heads, 2, x.shape[1])
    out = np.empty_like(pairs)
    out[:, turned:] = pairs[:, turned:]
    a, b = pairs[:, :turned, 0], pairs[:, :turned, 1]
    np.subtract(a * cos, b * sin, out=out[:, :turned, 0])
    np.add(b * cos, a * sin, out=out[:, :turned, 1])
    return out.reshape(x.shape)


# ---- op -------------------------------------------------------------------------------------------------------------

class Rope(Op):
    """Turns heads of x [..., T, heads*D] by their positions; table [S,2,D/2]; starts int32 [1], one per sequence, or
    None."""

    constant = (1,)

    def forward(self, x: Array, table: Array, starts: Array | None = None, *, heads: int, turned: int | None = None,
                offset: int = 0) -> Array:
        """`turned`: only so many first heads are turned (queries and keys of a packed qkv); all by default."""
        turned = heads if turned is None else turned
        half = table.shape[2] if table.ndim == 3 and table.shape[1] == 2 else 0
        if not half or not table.dtype.is_floating_point:
            raise ShapeError(f"[rope] table must be floats [S,2,D/2], got {table.dtype.name} {table.shape}.")
        if not 1 <= turned <= heads:
            raise ShapeError(f"[rope] turned must be from 1 to heads={heads}, got {turned}.")
        if x.ndim < 2 or x.shape[-1] != heads * 2 * half:
            raise ShapeError(f"[rope] x must be [..., T, heads*D] with heads*D = {heads}*{2 * half}, got {x.shape}.")
        if offset < 0:
            raise ShapeError(f"[rope] offset must be 0 or more, got {offset}.")
        sequences = math.prod(x.shape[:-2])
        if starts is not None and starts.dtype is not int32:
            raise DTypeError(f"[rope] starts must be int32, got {starts.dtype.name}.")
        if starts is not None and starts.size not in (1, sequences):
            raise ShapeError(f"[rope] starts must hold 1 position or one for each of {sequences} sequences, got "
                             f"{starts.size}.")
        first = Array(x.buffer, (0,), int32) if starts is None else starts.reshape(starts.size)
        self.options: dict[str, Any] = {"T": max(1, x.shape[-2]), "offset": offset, "heads": heads, "turned": turned}
        self.save(table, first)
        return self._turn(x, table, first, 1.0)

    def _turn(self, x: Array, table: Array, starts: Array, sign: float) -> Array:
        half = table.shape[2]
        out: Array = run(rope_turn, x.reshape(x.size // half, half), table.reshape(-1, half), starts, sign=sign,
                         **self.options)
        return out.reshape(*x.shape)

    def backward(self, dout: Array) -> Gradients:
        table, starts = self.saved
        return self._turn(dout, table, starts, -1.0), None, None

    @classmethod
    def cases(cls, rng: np.random.Generator) -> Iterator[Case]:
        def case(name: str, lead: tuple[int, ...], size: int, length: int, starts: Any = None, **options: Any) -> Case:
            angles = rng.uniform(-9, 9, (length, size // 2))
            table = np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float32)
            begin = None if starts is None else np.array(starts, np.int32)
            x = rng.standard_normal((*lead, options["heads"] * size))
            return Case(name, (x, table, begin), options)

        yield case("vector", (2, 5), 8, 5, heads=3)
        yield case("odd", (2, 5), 6, 9, heads=2, offset=3)
        yield case("packed", (2, 3), 16, 4, heads=4, turned=3)
        yield case("one_turned", (1, 3), 8, 4, heads=2, turned=1)
        yield case("one_start", (2, 3), 8, 12, [7], heads=2, offset=1)
        yield case("starts", (3, 2), 8, 9, [7, 0, 4], heads=2)
        yield case("positions", (5, 1), 4, 9, [8, 0, 4, 4, 1], heads=1)
        yield case("many", (3, 70), 12, 70, heads=3, turned=2)
        yield case("flat", (4,), 8, 4, heads=1)
        yield case("end_of_table", (2, 3), 8, 7, [4, 2], heads=1)
        outside = case("outside", (3, 2), 8, 4, [-1, 3, 9], heads=2, turned=1)
        yield Case(outside.name, outside.inputs, outside.options, differentiable=False)
        yield case("no_token", (2, 0), 8, 4, heads=2)
        yield case("no_batch", (0, 3), 8, 4, heads=2)

    @classmethod
    def bad_cases(cls) -> Iterator[BadCase]:
        x, table, one = np.zeros((2, 3, 16)), np.zeros((4, 2, 4)), {"heads": 2}
        yield BadCase("table", (x, table[:, 0], None), r"\[rope\] table must be floats \[S,2,D/2\]", one)
        yield BadCase("width", (x[..., 1:], table, None), r"heads\*D = 2\*8, got \(2, 3, 15\)", one)
        yield BadCase("turned", (x, table, None), "turned must be from 1 to heads=2, got 3", {**one, "turned": 3})
        yield BadCase("offset", (x, table, None), "offset must be 0 or more, got -1", {**one, "offset": -1})
        yield BadCase("starts", (x, table, np.zeros(3, np.int32)), "one for each of 2 sequences, got 3", one)
        yield BadCase("start_type", (x, table, np.zeros(2)), "starts must be int32, got float32", one)
