"""LayerNorm with the dropout beside it in one pass: what fusion makes of the two in a captured step.

    h = dropout(x) + residual,  out = layer_norm(h)            and backwards           dx,  dropout(dx)

Bits are those of the two launches. WebGPU binds eight buffers: so a row's mean and rstd are the halves of `stats`, and
dx comes in the place of dh. C must be a multiple of 4, which a random counter's four words are for. With DROP = 0
nothing is dropped: what stands beside dx is dx in another dtype, which a cast would make, and C may be any.

What is dropped out may be in 16 bits (X, Y) beside a norm in float32. The references, which are given all of it in
float32, round it between the two steps as `rounding` says.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from ..dtypes import bfloat16, float16
from ..kernel import Kernel, kernel
from .dropout import dropout_forward
from .norm import layer_norm_backward, layer_norm_forward, one_subgroup

ROUNDINGS = {float16: 1, bfloat16: 2}  # what `rounding` says; any other number rounds nothing
_DROPOUT = "rounding:u32 offset:u32 threshold:u32 scale"


def _rounded(x: Any, rounding: int) -> Any:
    for dtype, number in ROUNDINGS.items():
        if number == rounding:
            return x.astype(dtype.host).astype(x.dtype)
    return x


@kernel("x:X[N,C] residual[R,N,C] weight[A,C] bias[B,C] state:u32[4] -> h[N,C] out:Y[N,C] stats:f32[2*N] | "
        f"eps {_DROPOUT}", groups="N", block=128, software_block=8, static="C R A B", vector="C")
def dropout_layer_norm_forward(x: Any, residual: Any, weight: Any, bias: Any, state: Any, eps: float,
                               rounding: int, **dropout: Any) -> Any:
    """h, its norm, and all rows' means followed by all rows' rstd."""
    dropped = _rounded(dropout_forward.reference(x.reshape(-1), state, **dropout), rounding).reshape(x.shape)
    h, out, mean, rstd = layer_norm_forward.reference(dropped, residual, weight, bias, eps)
    return h if len(residual) else dropped, out, np.concatenate([mean.reshape(-1), rstd.reshape(-1)])


@kernel("dout:D[N,C] x[N,C] weight[A,C] stats:f32[2*N] state:u32[4] &dx[N,C] -> dropped:Y[N,C] partial:f32[S,P,C] | "
        f"R:u32 S:u32 P:u32 DROP:u32 {_DROPOUT}", groups="S", block=128, software_block=16, static="C R A P DROP",
        vector="C")
def layer_norm_dropout_backward(dout: Any, x: Any, weight: Any, stats: Any, state: Any, dx: Any, R: int, S: int, P: int,
                                DROP: int, rounding: int, **dropout: Any) -> Any:
    """dx (plus dh, which lies in its place if R is 1), the dropout of it, and layer_norm_backward's partial sums."""
    mean, rstd = stats.reshape(2, -1)
    made, partial = layer_norm_backward.reference(dout, x, dx[None, :][:R], weight, mean, rstd, S, P)
    if not DROP:
        return made, made, partial
    return made, dropout_forward.reference(_rounded(made.reshape(-1), rounding), state, **dropout), partial


for _kernel, _groups in ((dropout_layer_norm_forward, "N"), (layer_norm_dropout_backward, "S")):
    _kernel.variant("subgroup", "webgpu", one_subgroup, groups=_groups, block=0)


def kernel_cases(rng: np.random.Generator) -> Iterator[tuple[Kernel, tuple[np.ndarray, ...], dict[str, Any]]]:
    """Sample launches: with and without a residual, weights and sums; short and long rows."""
    state = np.array([3, 4, 2**32 - 2, 6], np.uint32)
    for rows, width, full in ((1, 4, True), (5, 24, False), (9, 132, True), (3, 1032, True)):
        x, other, dout = rng.standard_normal((3, rows, width))
        dropout = {"rounding": 0, "offset": 3, "threshold": 2**30, "scale": 4 / 3}
        residual, weight = other[None, :][:int(full)], rng.standard_normal((int(full), width))
        yield (dropout_layer_norm_forward, (x, residual, weight, weight, state), {"eps": 1e-5, **dropout})
        stats = np.concatenate([x.mean(1), 1 / x.std(1)])
        yield (layer_norm_dropout_backward, (dout, x, weight, stats, state, other),
               {"R": int(full), "S": min(rows, 2), "P": 2 * int(full), "DROP": int(width != 132), **dropout})
