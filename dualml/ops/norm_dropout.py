"""LayerNorm with the dropout beside it in one pass: what fusion makes of the two in a captured step.

    h = dropout(x) + residual,  out = layer_norm(h)            and backwards           dx,  dropout(dx)

Bits are those of the two launches. A row's mean and rstd are the halves of `stats`, dx and its dropout those of `both`:
WebGPU binds eight buffers. C must be a multiple of 4, which a random counter's four words are for.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from ..kernel import Kernel, kernel
from .dropout import dropout_forward
from .norm import layer_norm_backward, layer_norm_forward, one_subgroup

_DROPOUT = "offset:u32 threshold:u32 scale"


@kernel("x[N,C] residual[R,N,C] weight[A,C] bias[B,C] state:u32[4] -> h[N,C] out[N,C] stats:f32[2*N] | "
        f"eps {_DROPOUT}", groups="N", block=128, software_block=8, static="C R A B", vector="C")
def dropout_layer_norm_forward(x: Any, residual: Any, weight: Any, bias: Any, state: Any, eps: float,
                               **dropout: Any) -> Any:
    """h, its norm, and all rows' means followed by all rows' rstd."""
    dropped = dropout_forward.reference(x.reshape(-1), state, **dropout).reshape(x.shape)
    h, out, mean, rstd = layer_norm_forward.reference(dropped, residual, weight, bias, eps)
    return h if len(residual) else dropped, out, np.concatenate([mean.reshape(-1), rstd.reshape(-1)])


@kernel("dout[N,C] x[N,C] dh[R,N,C] weight[A,C] stats:f32[2*N] state:u32[4] -> both[2*N,C] partial:f32[S,P,C] | "
        f"S:u32 P:u32 {_DROPOUT}", groups="S", block=128, software_block=16, static="C R A P", vector="C")
def layer_norm_dropout_backward(dout: Any, x: Any, dh: Any, weight: Any, stats: Any, state: Any, S: int, P: int,
                                **dropout: Any) -> Any:
    """dx (plus dh), the dropout of it, and the partial sums of layer_norm_backward."""
    mean, rstd = stats.reshape(2, -1)
    dx, partial = layer_norm_backward.reference(dout, x, dh, weight, mean, rstd, S, P)
    dropped = dropout_forward.reference(dx.reshape(-1), state, **dropout).reshape(dx.shape)
    return np.concatenate([dx, dropped]), partial


for _kernel, _groups in ((dropout_layer_norm_forward, "N"), (layer_norm_dropout_backward, "S")):
    _kernel.variant("subgroup", "webgpu", one_subgroup, groups=_groups, block=0)


def kernel_cases(rng: np.random.Generator) -> Iterator[tuple[Kernel, tuple[np.ndarray, ...], dict[str, Any]]]:
    """Sample launches: with and without a residual, weights and sums; short and long rows."""
    state = np.array([3, 4, 2**32 - 2, 6], np.uint32)
    for rows, width, full in ((1, 4, True), (5, 24, False), (9, 132, True), (3, 1032, True)):
        x, other, dout = rng.standard_normal((3, rows, width))
        dropout = {"offset": 3, "threshold": 2**30, "scale": 4 / 3}
        residual, weight = other[None, :][:int(full)], rng.standard_normal((int(full), width))
        yield (dropout_layer_norm_forward, (x, residual, weight, weight, state), {"eps": 1e-5, **dropout})
        stats = np.concatenate([x.mean(1), 1 / x.std(1)])
        yield (layer_norm_dropout_backward, (dout, x, residual, weight, stats, state),
               {"S": min(rows, 2), "P": 2 * int(full), **dropout})
