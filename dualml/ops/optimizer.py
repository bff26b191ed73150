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

from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from typing import Any

import numpy as np

from ..array import Array, empty, run
from ..dtypes import bfloat16, float16, float32, float64
from ..errors import ShapeError
from ..kernel import Kernel, Scalar, kernel
from .blocks import each, row_blocks
from .cast import cast

_EACH = "cdiv(N, W * 4 * BLOCK)"  # workgroups where each invocation has four vectors
_SUMS = 1024            # partial sums of an Array's norm, at most; a multiple of _SUMS_STEP
_SOURCES = 4            # Arrays whose norms share a launch
_SUMS_STEP = 64         # partial sums of every launch begin on the backend's alignment
_SUBNORMAL = 2.0**-25   # half the distance of float16's smallest numbers
_NEAR = {float16: 2.0**-11, bfloat16: 2.0**-8}  # the most that rounding changes, as a share of the result
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


@kernel("param[N] &master:f32[N] | near", groups=_EACH, software_block=64, vector="N")
def refresh_master(param: Any, master: Any, near: float) -> Any:
    """master where param is what it was rounded to, else param: someone has written that one since."""
    far = ~(np.abs(master - param) <= np.abs(param) * near + _SUBNORMAL)
    if far.any():
        np.copyto(master, param, where=far)
    return master


@kernel("x0[N0] x1[N1] x2[N2] x3[N3] -> partial:f32[S] | S1:u32 S2:u32 S3:u32 S:u32", groups="S", software_block=16,
        vector="N0 N1 N2 N3")
def squared_norm(x0: Any, x1: Any, x2: Any, x3: Any, S1: int, S2: int, S3: int, S: int) -> Any:
    """S partial sums of squares, to be added up by grad_norm_total; those of x<k> begin at S<k>."""
    partial, ends, arrays = np.empty(S, x0.dtype), (0, S1, S2, S3, S), (x0, x1, x2, x3)
    unit = 1 if any(x.size % 4 for x in arrays) else 4  # a workgroup has neighbouring vectors
    for x, start, stop in zip(arrays, ends, ends[1:], strict=False):
        size = -(-x.size // unit // max(1, stop - start)) * unit
        partial[start:stop] = [np.vdot(p, p) for p in (x[i * size:(i + 1) * size] for i in range(stop - start))]
    return partial


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


@kernel("&param[N] &grad[N] &m:f32[N] &v:f32[N] hyper:f32[9] scale:f32[1] norm:f32[1] | decoupled:u32 max_norm",
        groups=_EACH, software_block=64, static="decoupled", vector="N", source="adamw")
def clip_adamw(param: Any, grad: Any, m: Any, v: Any, hyper: Any, scale: Any, norm: Any, decoupled: int,
               max_norm: float) -> Any:
    """scale_by_norm of grad, then adamw: what fusion makes of the two."""
    scaled = scale_by_norm.reference(grad, norm, max_norm)
    x, mean, square = adamw.reference(param, scaled, m, v, hyper, scale, decoupled)
    return x, scaled, mean, square


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


def with_master(param: Array, master: Array, step: Callable[[Array], None]) -> None:
    """Runs `step` on the float32 master copy of a 16-bit param, then rounds it to param. All [N].

    A master that param is not the rounding of (zeros before the first step, or after other weights were loaded) begins
    anew as param, so that param alone says what the weights are.
    """
    run(refresh_master, param, master, near=_NEAR[param.dtype])
    step(master)
    cast(master, param.dtype, param)


def grad_squares(arrays: Sequence[Array]) -> Array:
    """Sums of squares [M] of Arrays of any shapes on one backend, whose total is the square of their global L2 norm:
    float32 (float64 of float64 ones). As a rule one launch."""
    if not arrays:
        raise ShapeError("[grad_norm] arrays must hold at least one Array, got none.")
    alike: dict[Any, list[Array]] = {}  # of one dtype, and in vectors of four or not
    for array in arrays:
        alike.setdefault((array.dtype, array.size % 4 == 0), []).append(array)
    together = [group[i:i + _SOURCES] for group in alike.values() for i in range(0, len(group), _SOURCES)]
    ends = [list(accumulate((_pieces(a) for a in part), initial=0)) for part in together]
    dtype = float64 if arrays[0].dtype is float64 else float32
    partial, start = empty((sum(e[-1] for e in ends),), dtype, arrays[0].backend), 0
    for part, (*begins, stop) in zip(together, ends, strict=True):
        part = [a.reshape(a.size) for a in part] + [part[0].reshape(part[0].size)] * (_SOURCES - len(part))
        begins += [stop] * (_SOURCES - len(begins))
        places: dict[str, Any] = {f"S{k}": begin for k, begin in enumerate(begins) if k}
        run(squared_norm, *part, **places, S=stop, out=(partial.slot(start, (stop,)),))
        start += stop
    return partial


def _pieces(array: Array) -> int:
    return min(_SUMS, _SUMS_STEP * max(1, array.size // (_SUMS_STEP * _NORM_WORK)))


def grad_norm(arrays: Sequence[Array]) -> Array:
    """Global L2 norm of Arrays of any shapes on one backend: shape (), float32 (float64 of float64 ones)."""
    norm: Array = run(grad_norm_total, grad_squares(arrays))
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
            for norm, factor in ((0.5, half), (20.0, half), (0.5, skip), (20.0, skip)):
                yield clip_adamw, (param, grad, m, v, rates, factor, np.array([norm])), \
                    {"decoupled": decoupled, "max_norm": 1.0}
        yield adamw, (param, grad, m, v, rates, skip), {"decoupled": 1}
        for nesterov in (0.0, 1.0):
            yield sgd_momentum, (param, grad, m, np.array([0.1, 0.01, 0.9, 0.8, nesterov]), half), {}
        yield sgd_momentum, (param, grad, m, np.array([0.1, 0.01, 0.9, 0.8, 0.0]), skip), {}
        yield sgd, (param, grad, np.array([0.1, 0.01]), half), {}
        yield sgd, (param, grad, np.array([0.1, 0.01]), skip), {}
        written = np.where(np.arange(size) % 3, 1 + 2.0**-9 * np.sign(grad), 3.0)  # near param, and not
        yield refresh_master, (np.ones(size), written), {"near": 2.0**-8}
        for pieces in (1, 5, 64):
            yield squared_norm, (grad,) * 4, {"S1": pieces, "S2": pieces, "S3": pieces, "S": pieces}
            yield squared_norm, (grad, param, m[:size // 8 * 4], v), \
                {"S1": pieces, "S2": pieces + 1, "S3": pieces + 7, "S": pieces + 10}
        yield grad_norm_total, (v,), {}
        for norm in (0.0, 0.5, 20.0):
            yield scale_by_norm, (grad, np.array([norm])), {"max_norm": 1.0}
