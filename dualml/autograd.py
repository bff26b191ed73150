"""Public autograd functions: gradients as values, checkpointing, and the finite difference check."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from . import tape
from .errors import GradientError
from .ops.base import Op
from .tape import enable_grad, is_grad_enabled, no_grad
from .tensor import Tensor

__all__ = ["checkpoint", "enable_grad", "grad", "gradcheck", "is_grad_enabled", "no_grad"]


def _tuple(values: Any) -> tuple[Any, ...]:
    return tuple(values) if isinstance(values, (tuple, list)) else (values,)


def grad(outputs: Tensor | Sequence[Tensor], inputs: Tensor | Sequence[Tensor],
         grad_outputs: Tensor | Sequence[Tensor | None] | None = None, retain_graph: bool = False,
         allow_unused: bool = False) -> tuple[Tensor | None, ...]:
    """Gradients of outputs with respect to inputs, returned instead of added to .grad.

    Args:
        grad_outputs: one per output, of its shape; 1 for scalars.
        allow_unused: None for an input the outputs do not depend on, instead of an error.
    Raises:
        GradientError: an input is unused, or does not require a gradient.
    """
    ends, starts = _tuple(outputs), _tuple(inputs)
    seeds = _tuple(grad_outputs) if grad_outputs is not None else (None,) * len(ends)
    for start in starts:
        if not start.requires_grad:
            raise GradientError("[grad] every input must have requires_grad=True.")
    found = tape.backward(ends, seeds, retain_graph, wanted=starts)
    if None in found and not allow_unused:
        raise GradientError(f"[grad] input {found.index(None)} is not used by the outputs. Pass allow_unused=True to "
                            "get None for it.")
    return tuple(None if array is None else Tensor(array) for array in found)


class _Checkpoint(Op):
    """Keeps a function and its inputs; backward runs the function again and walks back through that run."""

    name = "checkpoint"

    def __init__(self, function: Callable[..., Any], inputs: Sequence[Any], named: dict[str, Any]) -> None:
        super().__init__()
        from .random import get_state
        self.function, self.inputs, self.named, self.random = function, inputs, named, get_state()
        self.policy = tape.input_policy()

    def backward(self, *gradients: Any) -> list[Any]:
        from .random import get_state, set_state
        _ = self.saved
        if tape.is_collecting():
            raise GradientError("[checkpoint] dm.grad does not see the parameters inside. Use .backward().")
        now = get_state()
        set_state(self.random)
        try:
            with enable_grad(), tape.use_policy(self.policy):
                again = [i.detach().requires_grad_(i.requires_grad) if isinstance(i, Tensor) else i
                         for i in self.inputs]
                outputs = _tuple(self.function(*again, **self.named))
        finally:
            set_state(now)
        used = [(o, Tensor(g)) for o, g in zip(outputs, gradients, strict=True) if g is not None and o.requires_grad]
        tape.backward([o for o, _ in used], [g for _, g in used])
        return [a.grad._array if a.grad is not None else None for a in again if isinstance(a, Tensor)]


    def release(self) -> None:
        super().release()
        self.inputs = ()


def checkpoint(function: Callable[..., Any], *inputs: Any, **named: Any) -> Any:
    """function(*inputs), whose intermediate values are dropped and computed again in the backward pass.

    Trades one more forward for the memory between inputs and outputs (Chen et al. 2016, arXiv 1604.06174). Random ops
    draw the same numbers both times.
    """
    if not is_grad_enabled():
        return function(*inputs, **named)
    if any(isinstance(v, Tensor) and v.requires_grad for v in named.values()):
        raise GradientError("[checkpoint] tensors that require gradients must be positional arguments.")
    op = _Checkpoint(function, inputs, named)
    with no_grad():
        result = function(*inputs, **named)
    outputs = _tuple(result)
    tensors = [i for i in inputs if isinstance(i, Tensor)]
    op.needs = tuple(t.requires_grad for t in tensors)
    op.save(*[t._array for t in tensors])
    node = tape.record(op, tensors, len(outputs))
    wrapped = [Tensor(o._array, o.dtype.is_floating_point, node if o.dtype.is_floating_point else None, i)
               for i, o in enumerate(outputs)]
    return tuple(wrapped) if isinstance(result, (tuple, list)) else wrapped[0]


def gradcheck(function: Callable[..., Tensor], inputs: Sequence[Tensor], eps: float = 1e-6, atol: float = 1e-5,
              rtol: float = 1e-3) -> bool:
    """Compares gradients with central differences. Inputs should be float64 on the cpu backend.

    Raises:
        GradientError: where they differ, with the input, the element and both values.
    """
    rng = np.random.default_rng(0)
    output = function(*inputs)
    weights = rng.standard_normal(output.shape)
    seed = Tensor(_like(weights, output))
    wanted = [x for x in inputs if x.requires_grad]
    analytic = grad(output, wanted, seed, allow_unused=True)

    def value() -> float:
        with no_grad():
            return float((function(*inputs)._array.numpy().astype(np.float64) * weights).sum())

    for index, (x, found) in enumerate(zip(wanted, analytic, strict=True)):
        base = x._array.numpy()
        want = np.zeros(base.size)
        for place in range(base.size):
            sides = []
            for step in (eps, -eps):
                moved = base.reshape(-1).copy()
                moved[place] += step
                x._array.write(moved.reshape(base.shape))
                sides.append(value())
            want[place] = (sides[0] - sides[1]) / (2 * eps)
        x._array.write(base)
        got = np.zeros(base.size) if found is None else found._array.numpy().reshape(-1)
        wrong = np.abs(got - want) > atol + rtol * np.abs(want)
        if wrong.any():
            place = int(wrong.argmax())
            raise GradientError(f"[gradcheck] input {index}, element {place}: gradient {got[place]:.8g}, finite "
                                f"difference {want[place]:.8g}.")
    return True


def _like(values: np.ndarray, tensor: Tensor) -> Any:
    from .array import from_numpy
    return from_numpy(values.astype(tensor.dtype.host), tensor.dtype, tensor._array.backend)
