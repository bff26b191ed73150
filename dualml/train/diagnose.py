"""Why a run broke: the step whose gradients were not finite, done once more under a hook that looks at every value.

It is the very same step: the optimizer has changed nothing since (amp.LossScaler), a batch follows from its number, and
the random generator is put back to where it stood.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

from .. import random
from ..debug import FirstNonFinite, NonFinite, first_nonfinite
from ..nn import Parameter
from ..tensor import Tensor


def diagnose(parameters: Iterable[tuple[str, Parameter]], passes: Callable[[], Iterable[Tensor]], seed: Tensor,
             start: dict[str, int]) -> list[str]:
    """Sentences: which parameters were not finite before the step, which kernel first wrote such a value, and which
    gradients came out so.

    Args:
        passes: gives the loss of each micro-batch, the forward pass done when it is asked for.
        seed: the gradient that backward begins with.
        start: the random generator's state at the beginning of the step.
    """
    named = dict(parameters)
    now = random.get_state()
    random.set_state(start)
    try:
        for parameter in named.values():
            parameter.grad = None
        said = [_tell("Parameters before the step", dict(named))]
        with first_nonfinite({n: p._array for n, p in named.items()}) as hook:
            where = _again(passes(), seed, hook)
        said.append(_place(hook.found, where))
        said.append(_tell("Gradients", {n: p.grad for n, p in named.items() if p.grad is not None}))
    finally:
        random.set_state(now)
        for parameter in named.values():
            parameter.grad = None
    return said


def _again(losses: Iterable[Tensor], seed: Tensor, hook: FirstNonFinite) -> str:
    """The step's passes up to the first value that is not finite. Returns which pass had it."""
    where = "forward"
    for loss in losses:
        where = "forward" if hook.found is not None else "backward"
        loss.backward(seed)
        if hook.found is not None:
            break
    return where


def _place(found: NonFinite | None, where: str) -> str:
    if found is None:
        return "First value not finite: none in the step's passes; the squares of the gradients overflow their sum."
    read = f", reading {', '.join(found.read)}" if found.read else ""
    return (f"First value not finite: kernel {found.kernel} ({where} pass{read}) wrote {found.count:,} into "
            f"{found.argument} {list(found.shape)}.")


def _tell(what: str, tensors: dict[str, Tensor]) -> str:
    bad = {}
    for name, tensor in tensors.items():
        count = int((~np.isfinite(tensor.detach().numpy().astype(np.float32))).sum())
        if count:
            bad[name] = f"{count:,} of {tensor.numel():,} values"
    if not bad:
        return f"{what}: all finite."
    first, share = next(iter(bad.items()))
    return f"{what}: {len(bad)} of {len(tensors)} not finite, first {first} ({share})."
