"""One step of an optimizer over flat arenas, and the global gradient norm. All numbers that change from step to step
are in device memory (`hyper`), so that a recorded step can be replayed.

    AdamW (Loshchilov, Hutter 2017, arXiv 1711.05101), Adam (Kingma, Ba 2014, arXiv 1412.6980), SGD as in PyTorch.
    hyper of AdamW: lr, beta1, 1 - beta1, beta2, 1 - beta2, eps, weight_decay, 1/(1 - beta1^t), 1/(1 - beta2^t)
    hyper of SGD: lr, weight_decay; with momentum also: momentum, 1 - dampening, nesterov (0 or 1)

Differences such as 1 - beta2 are taken in float64 on the host: in float32 they would lose digits. The momentum buffer
of SGD starts as zeros, and the first step's dampening must be 0: then it becomes the gradient. Gradients are multiplied
by `scale`; a scale of 0 leaves everything as it is, which is what a loss scaler wants after an overflow.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from ..array import Array, empty, run
from ..dtypes import float32, float64
from ..errors import ShapeError
from ..kernel import Kernel, Scalar, kernel
from .blocks import each, row_blocks

_EACH = "cdiv(N, W * 4 * BLOCK)"  # workgroups where each invocation has four vectors
_SUMS = 1024            # partial sums of an Array's norm, at most; a multiple of _SUMS_STEP
_SUMS_STEP = 64         # partial sums of every Array begin on the backend's alignment
_NORM_WORK = 8192       # elements of a partial sum, at least

# ---- kernels --------------------------------------------------------------------------------------------------------


@kernel("&param[N] grad:G[N] &m:f32[N] &v:f32[N] hyper:f32[9] scale:f32[1] | decoupled:u32", groups=_EACH,
        software_block=64, static="decoupled", vector="N")
def adamw(param: Any, grad: Any, m: Any, v: Any, hyper: Any, scale: Any, decoupled: int) -> Any:
    """Adam with decoupled weight decay, or with decay in the gradient (decoupled = 0)."""
    lr, beta1, rest1, beta2, rest2, eps, decay, correct1, correct2 = hyper
    if not scale:
        return param, m, v
    step, root = -lr * correct1, np.sqrt(correct2)

    def work(part: slice) -> None:
        x, mean, square = param[part], m[part], v[part]
        g, a = np.empty((2, x.size), m.dtype)
        np.multiply(grad[part], scale, out=g)
        if decoupled:
            x *= 1 - lr * decay
        elif decay:
            g += np.multiply(x, decay, out=a)
        mean *= beta1
        mean += np.multiply(g, rest1, out=a)
        square *= beta2
        g *= g
        g *= rest2
        square += g
        np.sqrt(square, out=a)
        a *= root
        a += eps
        np.divide(mean, a, out=a)
        a *= step
        x += a
    each(row_blocks(param), work)
    return param, m, v


@kernel("&param[N] grad:G[N] &buffer:f32[N] hyper:f32[5] scale:f32[1]", groups=_EACH, software_block=64, vector="N")
def sgd_momentum(param: Any, grad: Any, buffer: Any, hyper: Any, scale: Any) -> Any:
    """Gradient descent with momentum."""
    lr, decay, momentum, new, nesterov = hyper
    if not scale:
        return param, buffer

    def work(part: slice) -> None:
        x, b = param[part], buffer[part]
        g = grad[part] * scale
        if decay:
            g += decay * x
        b *= momentum
        b += new * g
        if nesterov:
            g += momentum * b
        else:
            g = b
        x -= lr * g
    each(row_blocks(param), work)
    return param, buffer


@kernel("&param[N] grad:G[N] hyper:f32[2] scale:f32[1]", groups=_EACH, software_block=64, vector="N")
def sgd(param: Any, grad: Any, hyper: Any, scale: Any) -> Any:
    """Plain gradient descent."""
    lr, decay = hyper
    if not scale:
        return param

    def work(part: slice) -> None:
        x, g = param[part], grad[part] * scale
        if decay:
            g += decay * x
        x -= lr * g
    each(row_blocks(param), work)
    return param


@kernel("x[N] -> partial:f32[S] | S:u32", groups="S", software_block=16, vector="N")
def squared_norm(x: Any, S: int) -> Any:
    """S partial sums of squares, to be added up by grad_norm_total."""
    unit = 1 if x.size % 4 else 4  # a workgroup has neighbouring vectors
    size = -(-x.size // unit // S) * unit
    return np.array([np.vdot(part, part) for part in (x[i * size:(i + 1) * size] for i in range(S))], x.dtype)


@kernel("partial[M] -> norm[1]", groups="1", software_block=8, vector="M")
def grad_norm_total(partial: Any) -> Any:
    """The root of the sum."""
    return np.sqrt(partial.sum(keepdims=True))


@kernel("&x[N] norm:f32[1] | max_norm", groups=_EACH, software_block=64, vector="N")
def scale_by_norm(x: Any, norm: Any, max_norm: float) -> Any:
    """x * min(1, max_norm / (norm + 1e-6)); NaN where the norm is."""
    factor = norm.dtype.type(max_norm) / (norm + norm.dtype.type(1e-6))
    if not factor[0] >= 1:
        x *= factor
    return x


# ---- what optimizers call -------------------------------------------------------------------------------------------

def adamw_step(*param_grad_m_v_hyper_scale: Array, decoupled: bool = True) -> None:
    """One step of AdamW, or of Adam (decoupled=False), in place. All [N], but hyper [9] and scale [1]."""
    run(adamw, *param_grad_m_v_hyper_scale, decoupled=int(decoupled))


def sgd_step(*param_grad_hyper_scale: Array) -> None:
    """One step of plain SGD in place. All [N], but hyper [2] and scale [1]."""
    run(sgd, *param_grad_hyper_scale)


def sgd_momentum_step(*param_grad_buffer_hyper_scale: Array) -> None:
    """One step of SGD with momentum in place. All [N], but hyper [5] and scale [1]."""
    run(sgd_momentum, *param_grad_buffer_hyper_scale)


def grad_norm(arrays: Sequence[Array]) -> Array:
    """Global L2 norm of Arrays of any shapes on one backend: shape (), float32 (float64 of float64 ones)."""
    if not arrays:
        raise ShapeError("[grad_norm] arrays must hold at least one Array, got none.")
    dtype = float64 if arrays[0].dtype is float64 else float32
    counts = [min(_SUMS, _SUMS_STEP * max(1, a.size // (_SUMS_STEP * _NORM_WORK))) for a in arrays]
    partial = empty((sum(counts),), dtype, arrays[0].backend)
    start = 0
    for array, count in zip(arrays, counts, strict=True):
        run(squared_norm, array.reshape(array.size), S=count, out=(partial.slot(start, (count,)),))
        start += count
    norm: Array = run(grad_norm_total, partial)
    return norm.reshape()


def clip_(x: Array, norm: Array, max_norm: float) -> None:
    """Scales x in place by min(1, max_norm / (norm + 1e-6)), norm of shape ()."""
    run(scale_by_norm, x.reshape(x.size), norm.reshape(1), max_norm=max_norm)


def kernel_cases(rng: np.random.Generator) -> Iterator[tuple[Kernel, tuple[np.ndarray, ...], dict[str, Scalar]]]:
    """Sample launches of this module's kernels: kernel, inputs (float64, to be cast to each tested dtype; "f32" ones
    stay float32) and scalars."""
    rates = np.array([1e-2, 0.9, 0.1, 0.99, 0.01, 1e-8, 0.1, 1 / (1 - 0.9**3), 1 / (1 - 0.99**3)])
    half, skip = np.array([0.5]), np.array([0.0])
    for size in (1, 7, 64, 4100, 4099):
        param, grad, m = rng.standard_normal((3, size))
        v = rng.standard_normal(size)**2
        for decoupled in (0, 1):
            yield adamw, (param, grad, m, v, rates, half), {"decoupled": decoupled}
        yield adamw, (param, grad, m, v, rates, skip), {"decoupled": 1}
        for nesterov in (0.0, 1.0):
            yield sgd_momentum, (param, grad, m, np.array([0.1, 0.01, 0.9, 0.8, nesterov]), half), {}
        yield sgd_momentum, (param, grad, m, np.array([0.1, 0.01, 0.9, 0.8, 0.0]), skip), {}
        yield sgd, (param, grad, np.array([0.1, 0.01]), half), {}
        yield sgd, (param, grad, np.array([0.1, 0.01]), skip), {}
        for pieces in (1, 5, 64):
            yield squared_norm, (grad,), {"S": pieces}
        yield grad_norm_total, (v,), {}
        for norm in (0.0, 0.5, 20.0):
            yield scale_by_norm, (grad, np.array([norm])), {"max_norm": 1.0}
