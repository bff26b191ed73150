"""Mixed precision, as in PyTorch: weights, their gradients and the optimizer in float32, products in 16 bits.

    scaler = amp.LossScaler("float16", "cuda")
    with amp.autocast("float16"):
        loss = model(tokens, targets)
    loss.backward(scaler.seed())
    factor, norm = scaler.factor(optim.grad_squares(model.parameters()), clip=1.0)
    optimizer.step(factor)

Where memory is short, the weights themselves can be of 16 bits: model.to("bfloat16") before the optimizer is made, and
no autocast. Kernels still compute and add in float32; the optimizer keeps its means and a copy of the weights in
float32.

Source: Micikevicius et al. 2017, "Mixed Precision Training" (arXiv 1710.03740). float16 gradients below 6e-8 would be
0, so the loss is scaled up and the gradients down again; bfloat16 has float32's range and needs none of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from functools import cache
from typing import Any

import numpy as np

from . import runtime
from .array import from_numpy
from .dtypes import DType, as_dtype, bfloat16, float16, float32
from .errors import DTypeError
from .ops.create import fill
from .ops.grad_factor import step_factor
from .tape import Policy, use_policy
from .tensor import Tensor

PRECISIONS = ("float32", "float16", "bfloat16")  # of autocast; weights are float32
SHORT_WEIGHTS = {"float16-weights": float16, "bfloat16-weights": bfloat16}  # those where the weights are of 16 bits
START = 2.0**16       # the first loss scale and the steps before it doubles, PyTorch's
GROWTH_STEPS = 2000

# What runs in 16 bits, and what must not: sums and exponentials. All else takes its inputs as they come; cross_entropy
# computes in float32 from logits of any dtype, so that casting those would only move more bytes.
SHORT_OPS = frozenset({"linear", "matmul", "attention", "attention_qkv", "attention_varlen",
                       "attention_varlen_qkv", "bias_gelu", "linear_gelu_linear"})
FULL_OPS = frozenset({"layer_norm", "rms_norm", "add_layer_norm", "add_rms_norm", "softmax", "log_softmax",
                      "logsumexp", "sum", "mean", "prod", "var", "std", "cumsum", "exp", "expm1",
                      "log", "log1p", "pow", "reciprocal", "rsqrt", "softplus"})


def dtype_of(precision: DType | str) -> DType:
    """The dtype of a precision's name, which products are made in."""
    return SHORT_WEIGHTS.get(str(precision)) or as_dtype(precision)


def check(precision: DType | str, backend: str) -> DType:
    """The dtype of a precision's name. Raises DTypeError where it is none, or the backend's device has it not."""
    found = dtype_of(precision)
    if found.name not in PRECISIONS:
        names = ", ".join((*PRECISIONS, *SHORT_WEIGHTS))
        raise DTypeError(f"[amp] precision must be one of {names}, got {found.name}.")
    device = runtime.get(backend)
    try:
        device.check_dtype("amp", found)
    except DTypeError as error:  # WebGPU has no bfloat16 at all
        other = "float16" if found is bfloat16 and float16 in device.dtypes else "float32"
        weights = "-weights" if other == "float16" and str(precision) in SHORT_WEIGHTS else ""
        raise DTypeError(f"{error} Take {other}{weights}.") from None
    return found


def forward_pass(precision: str) -> AbstractContextManager[None]:
    """What a model of a precision computes within: autocast, or nothing special where its weights are of 16 bits."""
    return autocast("float32" if precision in SHORT_WEIGHTS else precision)


def autocast(dtype: DType | str) -> AbstractContextManager[None]:
    """Within it, matrix products, attention and what is fused with them compute on inputs of `dtype`, norms, softmax
    and sums on float32. A weight is cast where it is used, and its gradient comes back in float32.

    Args:
        dtype: float16 or bfloat16; float32 changes nothing.
    """
    short = as_dtype(dtype)
    if short.name not in PRECISIONS:
        raise DTypeError(f"[amp] dtype must be one of {', '.join(PRECISIONS)}, got {short.name}.")
    return use_policy(None if short is float32 else _policy(short))


@cache  # one policy for a dtype, so that a captured step knows it again
def _policy(short: DType) -> Policy:
    def cast(kind: Any, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        name = getattr(kind, "name", "")
        if name in SHORT_OPS:
            return tuple(_as(x, short, (float32, float16, bfloat16)) for x in inputs)
        if name in FULL_OPS:
            return tuple(_as(x, float32, (float16, bfloat16)) for x in inputs)
        return inputs
    return cast


def _as(x: Tensor | None, dtype: DType, taken: Sequence[DType]) -> Tensor | None:
    return x.to(dtype) if x is not None and x.dtype in taken and x.dtype is not dtype else x


class LossScaler:
    """The factor of a step's gradients: loss scale, clipping, and 0 where one is infinite or NaN, all on the device.

    For float16 the scale halves after an overflow, whose step changes nothing, and doubles after 2,000 good steps. At a
    scale of 1 (which float32 and bfloat16 have from the start) an overflow is a mistake of the run and no matter of
    scale: from then on nothing changes any more, so that weights and optimizer stay those of before that step.
    """

    def __init__(self, dtype: DType | str, backend: str, start: float = START,
                 growth_steps: int = GROWTH_STEPS) -> None:
        self.dynamic = as_dtype(dtype) is float16
        self.growth_steps = growth_steps if self.dynamic else 0
        self.backend = runtime.get(backend)
        self._state = from_numpy(np.array([start if self.dynamic else 1.0, 0, 0, 0]), float32, self.backend)

    def seed(self, parts: int = 1) -> Tensor:
        """The gradient of a scalar loss to begin backward with: the scale, divided among the `parts` of a step."""
        if not self.dynamic:
            return Tensor(fill((), 1.0 / parts, float32, self.backend))
        scale = Tensor(self._state.slot(0, ()))
        return scale * (1.0 / parts)

    def factor(self, norm: Tensor, clip: float = 0.0) -> tuple[Tensor, Tensor]:
        """What the optimizer's step multiplies gradients by, and their norm without the scale.

        Args:
            norm: the global norm of the scaled gradients (optim.grad_norm), or its squares (optim.grad_squares), which
                saves a launch.
            clip: the largest norm; 0 clips nothing.
        """
        factor, total = step_factor(norm._array, self._state, clip, 1.0, self.growth_steps)
        return Tensor(factor), Tensor(total)

    def state_dict(self) -> dict[str, float]:
        """Scale, good steps since it changed, skipped steps, and whether it stands still. Waits for the device."""
        names = ("scale", "good", "skipped", "stopped")
        return dict(zip(names, (float(v) for v in self._state.numpy()), strict=True))

    def load_state_dict(self, state: dict[str, float]) -> None:
        self._state.write(np.array([state[n] for n in ("scale", "good", "skipped", "stopped")]))
