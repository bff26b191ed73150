"""What gradients are multiplied by in a step: the loss scale taken off, the global norm clipped, and 0 where a gradient
is not finite. All on the device, so that no step waits for the host.

    factor = min(1, max_norm / (norm / scale + 1e-6)) / scale,   or 0 where norm is infinite or NaN
    state: scale of the loss, good steps since it last changed, skipped steps, and whether all stands still (0 or 1)

Source: the loss scaling of Micikevicius et al. 2017 (arXiv 1710.03740, section 3.2), which halves the scale after an
overflow and doubles it after `growth` good steps. Where halving would go below `floor`, an overflow is no matter of
scale: from then on every factor is 0, so that weights and optimizer are those of before that step when the host looks.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from ..array import Array, run
from ..kernel import Kernel, kernel

LARGEST = 2.0**24  # of a loss scale: gradients of zero must not let it grow for ever


@kernel("given[M] &state:f32[4] -> factor:f32[1] total[1] | squares:u32 max_norm floor growth", groups="1",
        software_block=8, static="squares", vector="M")
def grad_factor(given: Any, state: Any, squares: int, max_norm: float, floor: float, growth: float) -> Any:
    """Also total, the norm without the scale. The norm is given, or (squares = 1) the root of what is given, summed.
    max_norm 0 clips nothing, growth 0 never grows."""
    scale, good, skipped, still = state
    norm = np.sqrt(given.sum(keepdims=True)) if squares else given
    total, factor = norm / scale, np.zeros_like(norm)
    if not still and np.isfinite(norm[0]):
        factor = np.minimum(1, max_norm / (total + norm.dtype.type(1e-6)) if max_norm else 1) / scale
        good += 1
        if growth and good >= growth:
            scale, good = min(2 * scale, LARGEST), 0
    elif not still:
        good, skipped, still = 0, skipped + 1, float(scale <= floor)
        scale = max(scale / 2, floor)
    state[:] = scale, good, skipped, still
    return state, factor, total


def step_factor(norm: Array, state: Array, max_norm: float, floor: float, growth: int) -> tuple[Array, Array]:
    """Factor and norm without the scale, of shape [1] and (); state [4] is moved on by one step. The norm is of one
    element, or its squares are, [M] (ops.optimizer.grad_squares, which gives 64 or more)."""
    factor, total = run(grad_factor, norm.reshape(norm.size), state, squares=int(norm.size > 1), max_norm=max_norm,
                        floor=floor, growth=float(growth))
    return factor, total.reshape()


def kernel_cases(rng: np.random.Generator) -> Iterator[tuple[Kernel, tuple[np.ndarray, ...], dict[str, Any]]]:
    """Sample launches: good steps, growth, overflow, the floor, and a run that stands still."""
    for norm, state in ((3.0, [1, 0, 0, 0]), (0.5, [1, 7, 0, 0]), (8.0, [4, 2, 1, 0]), (8.0, [1024, 2, 1, 0]),
                        (np.inf, [8, 1, 2, 0]), (np.nan, [8, 1, 2, 0]), (-np.inf, [1, 5, 0, 0]), (np.inf, [3, 0, 0, 0]),
                        (2.0, [1, 0, 1, 1]), (np.nan, [1, 0, 1, 1]), (0.0, [1, 0, 0, 0]), (1e-40, [1, 0, 0, 0])):
        for growth in (0.0, 3.0):
            numbers = {"max_norm": 1.0 if growth else 0.0, "floor": 2.0 if state[0] == 3 else 1.0, "growth": growth}
            yield grad_factor, (np.array([norm]), np.array(state, np.float64)), {"squares": 0, **numbers}
            for count in (64, 2050 if growth else 1):
                parts = np.full(count, abs(norm)) / count * abs(norm)
                yield grad_factor, (parts, np.array(state, np.float64)), {"squares": 1, **numbers}
