"""LayerNorm (Ba, Kiros, Hinton 2016, arXiv 1607.06450) and RMSNorm (Zhang, Sennrich 2019, arXiv 1910.07467).

    y = (x - mean) * rstd * weight + bias,  rstd = 1 / sqrt(mean((x - mean)^2) + eps)
    y = x * rstd * weight,                  rstd = 1 / sqrt(mean(x^2) + eps)

AddLayerNorm and AddRMSNorm are the same with the residual sum h = x + residual in the same pass. One kernel serves with
and without: tensors that may be missing have a first dimension of 1 or 0 (R residual, A weight, B bias). The tensors
of an op have one dtype; fusion may let x, out and dout (X, Y, D) be in 16 bits beside float32, which saves casts.

With g = dy * weight and y' the normalised row, dx = rstd * (g - mean(g) - y' * mean(g * y')), where RMSNorm has no
mean(g). The same pass adds dy * y' and dy up over the rows that a workgroup has; `sum_partials` adds the workgroups.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from ..array import Array, run
from ..errors import ShapeError
from ..kernel import DeviceInfo, Scalar, kernel
from .base import BadCase, Case, Gradients, Op
from .blocks import each
from .partials import groups_of, sum_partials

_BLOCK = 1 << 18    # elements that the references do at a time
_STRETCHES = 4      # for which they keep sums apart


# ---- kernels --------------------------------------------------------------------------------------------------------

@kernel("x:X[N,C] residual[R,N,C] weight[A,C] bias[B,C] -> h[R,N,C] out:Y[N,C] mean:f32[N] rstd:f32[N] | eps",
        groups="N", block=128, software_block=8, static="C R A B", vector="C")
def layer_norm_forward(x: Any, residual: Any, weight: Any, bias: Any, eps: float) -> Any:
    """Row means and variances in two passes, so that the variance does not cancel."""
    h = x + residual[0] if len(residual) else x
    mean = _sum_rows(h)[:, None]
    mean /= x.shape[1]
    out = h - mean
    rstd = 1 / np.sqrt(np.vecdot(out, out)[:, None] / x.shape[1] + x.dtype.type(eps))
    out *= rstd
    if len(weight):
        out *= weight
    if len(bias):
        out += bias
    return h if len(residual) else residual, out, mean, rstd


@kernel("dout:D[N,C] x[N,C] dh[R,N,C] weight[A,C] mean:f32[N] rstd:f32[N] -> dx[N,C] partial:f32[S,P,C] | S:u32 P:u32",
        groups="S", block=128, software_block=16, static="C R A P", vector="C")
def layer_norm_backward(dout: Any, x: Any, dh: Any, weight: Any, mean: Any, rstd: Any, S: int, P: int) -> Any:
    """dx (plus dh), and for each of S workgroups its rows' sums of dout * normalised x (P > 0) and dout (P > 1)."""
    dx, row = np.empty_like(x), weight[0] if len(weight) else 1

    def work(rows: slice, sums: Any) -> None:
        d, xhat, r = dout[rows], x[rows] - mean[rows, None], rstd[rows, None]
        xhat *= r
        _add_sums(sums, d, xhat)
        g = np.multiply(d, row, out=dx[rows])
        slope, level = np.vecdot(g, xhat)[:, None], _sum_rows(d, weight)[:, None]
        slope *= r / x.shape[1]
        level *= r / x.shape[1]
        g *= r
        xhat *= slope
        g -= xhat
        g -= level
        if len(dh):
            g += dh[0, rows]
    return dx, _in_blocks(x, S, P, work)


@kernel("x:X[N,C] residual[R,N,C] weight[A,C] -> h[R,N,C] out:Y[N,C] rstd:f32[N] | eps",
        groups="N", block=128, software_block=8, static="C R A", vector="C")
def rms_norm_forward(x: Any, residual: Any, weight: Any, eps: float) -> Any:
    """One pass over the row for its mean square, one for the result."""
    h = x + residual[0] if len(residual) else x
    rstd = 1 / np.sqrt(np.vecdot(h, h)[:, None] / x.shape[1] + x.dtype.type(eps))
    out = h * rstd
    if len(weight):
        out *= weight
    return h if len(residual) else residual, out, rstd


@kernel("dout:D[N,C] x[N,C] dh[R,N,C] weight[A,C] rstd:f32[N] -> dx[N,C] partial:f32[S,P,C] short_dx:Y[Z,N,C] | "
        "S:u32 P:u32 Z:u32", groups="S", block=128, software_block=16, static="C R A P Z", vector="C")
def rms_norm_backward(dout: Any, x: Any, dh: Any, weight: Any, rstd: Any, S: int, P: int, Z: int) -> Any:
    """dx (plus dh), for each of S workgroups its rows' sum of dout * normalised x (P = 1), and dx again (Z = 1)."""
    dx, row = np.empty_like(x), weight[0] if len(weight) else 1

    def work(rows: slice, sums: Any) -> None:
        d, r = dout[rows], rstd[rows, None]
        xhat = x[rows] * r
        _add_sums(sums, d, xhat)
        g = np.multiply(d, row, out=dx[rows])
        slope = np.vecdot(g, xhat)[:, None]
        slope *= r / x.shape[1]
        g *= r
        xhat *= slope
        g -= xhat
        if len(dh):
            g += dh[0, rows]
    return dx, _in_blocks(x, S, P, work), dx[None, :][:Z]


def _sum_rows(x: Any, weight: Any = ()) -> Any:
    """Each row's sum, weighted by weight[0] where there is one: as a product, which takes half of what np.sum does."""
    result: Any = np.vecdot(x, weight[0] if len(weight) else np.ones(x.shape[1], x.dtype))
    return result


def _in_blocks(x: Any, S: int, P: int, work: Callable[[slice, Any], None]) -> Any:
    """work(rows, sums) for blocks of a multiple of S rows whose temporaries stay in a core's cache. Returns the sums
    [S,P,C] of all. Cores have stretches of blocks and sums of their own, as many for any number of cores."""
    count, width = x.shape
    step = S * max(1, _BLOCK // (S * max(1, width)))
    stretch = step * max(1, -(-count // (step * _STRETCHES)))
    starts = range(0, count, stretch)
    sums = np.zeros((max(1, len(starts)), S, P, width), x.dtype)

    def share(rows: slice) -> None:
        for start in range(rows.start, rows.stop, step):
            work(slice(start, min(start + step, rows.stop)), sums[rows.start // stretch])
    each([slice(start, min(start + stretch, count)) for start in starts], share)
    for other in sums[1:]:
        sums[0] += other
    return sums[0]


def _add_sums(sums: Any, d: Any, xhat: Any) -> None:
    """Adds d * xhat (if P > 0) and d (if P > 1) to sums [S,P,C], row n to n % S."""
    groups, width = len(sums), d.shape[1]
    whole = len(d) // groups * groups
    for index, factors in enumerate(((d, xhat), (d,))[:sums.shape[1]]):
        blocks = [f[:whole].reshape(-1, groups, width) for f in factors]
        sums[:, index] += np.einsum(",".join(["ksc"] * len(blocks)) + "->sc", *blocks)
        sums[:len(d) - whole, index] += math.prod(f[whole:] for f in factors)


def one_subgroup(device: DeviceInfo, dims: Mapping[str, Scalar]) -> bool:
    """On CPU drivers a workgroup is one subgroup, whose sums need no barriers."""
    return device.software and device.subgroup_size > 0


for _kernel, _groups in ((layer_norm_forward, "N"), (layer_norm_backward, "S"), (rms_norm_forward, "N"),
                         (rms_norm_backward, "S")):
    _kernel.variant("subgroup", "webgpu", one_subgroup, groups=_groups, block=0)


# ---- ops ------------------------------------------------------------------------------------------------------------

def _maybe(name: str, argument: str, array: Array | None, like: Array, shape: tuple[int, ...]) -> Array:
    """A tensor that may be missing as its kernels take it: a first dimension of 1, or of 0 and no memory."""
    if array is None:
        return Array(like.buffer, (0, *shape), like.dtype)  # a view, so that nothing need be allocated
    if array.size != math.prod(shape) or array.shape[-1:] != shape[-1:]:
        raise ShapeError(f"[{name}] {argument} must have shape {shape}, got {array.shape}.")
    return array.reshape(1, *shape)


class _Norm(Op):
    """What the four ops share. Only x is always there; `rms` leaves out the mean and the bias."""

    rms = False

    def _forward(self, x: Array, residual: Array | None, weight: Array | None, bias: Array | None,
                 eps: float) -> tuple[Array, Array]:
        if not x.ndim:
            raise ShapeError(f"[{self.name}] x must have at least one dimension, got shape {x.shape}.")
        if residual is not None and residual.shape != x.shape:
            raise ShapeError(f"[{self.name}] residual must have x's shape {x.shape}, got {residual.shape}.")
        row = x.shape[-1:]
        rows = x.reshape(math.prod(x.shape[:-1]), *row)
        added = _maybe(self.name, "residual", residual, x, rows.shape)
        scale = _maybe(self.name, "weight", weight, x, row)
        mean: Array | None = None
        if self.rms:
            h, out, rstd = run(rms_norm_forward, rows, added, scale, types={"Y": x.dtype}, eps=eps)
        else:
            shift = _maybe(self.name, "bias", bias, x, row)
            h, out, mean, rstd = run(layer_norm_forward, rows, added, scale, shift, types={"Y": x.dtype}, eps=eps)
        h = h.reshape(*x.shape) if residual is not None else x
        self.save(h, weight, mean, rstd)
        return h, out.reshape(*x.shape)

    def _backward(self, dh: Array | None, dout: Array | None, first: int) -> tuple[Array | None, ...]:
        """Gradients of h, weight and bias; `first` is the weight's place among the inputs."""
        if dout is None:
            return dh, None, None
        x, weight, mean, rstd = self.saved
        row = x.shape[-1:]
        rows = x.reshape(math.prod(x.shape[:-1]), *row)
        needs = (*self.needs[first:first + 2], False, False)
        groups = groups_of(rows.shape[0])
        tensors = [dout.reshape(*rows.shape), rows, _maybe(self.name, "dh", dh, x, rows.shape),
                   _maybe(self.name, "weight", weight, x, row)]
        if self.rms:
            dx, partial, _ = run(rms_norm_backward, *tensors, rstd, types={"Y": x.dtype}, S=groups, P=int(needs[0]),
                                 Z=0)
        else:
            sums = 2 if needs[1] else int(needs[0])
            dx, partial = run(layer_norm_backward, *tensors, mean, rstd, S=groups, P=sums)
        grads: list[Array | None] = [None, None]
        if any(needs):
            slots = [slot if wanted else None for slot, wanted in zip(self.into[first:first + 2], needs, strict=False)]
            made = run(sum_partials, partial, A=int(needs[0]), B=int(needs[1]), types={"F": x.dtype},
                       out=tuple(slots))
            grads = [g.reshape(*row) if wanted else None for g, wanted in zip(made, needs, strict=False)]
        return dx.reshape(*x.shape), *grads


class LayerNorm(_Norm):
    """Normalises the last dimension: x [..., C], weight [C] or None, bias [C] or None."""

    def forward(self, x: Array, weight: Array | None = None, bias: Array | None = None, eps: float = 1e-5) -> Array:
        return self._forward(x, None, weight, bias, eps)[1]

    def backward(self, dout: Array) -> Gradients:
        return self._backward(None, dout, 1)

    @classmethod
    def cases(cls, rng: np.random.Generator) -> Iterator[Case]:
        for name, x, weight, bias in _cases(rng):
            yield Case(name, (x, weight, bias))
        yield Case("large_mean", (rng.standard_normal((3, 64)) + 30, None, None), dtypes=("float32",))
        yield Case("eps", (rng.standard_normal((3, 8)) * 0.01, None, None), {"eps": 1e-2})

    @classmethod
    def bad_cases(cls) -> Iterator[BadCase]:
        x, good, short = np.zeros((2, 4)), np.zeros(4), np.zeros(3)
        yield BadCase("weight", (x, short, good), r"\[layer_norm\] weight must have shape \(4,\), got \(3,\)")
        yield BadCase("bias", (x, good, short), r"\[layer_norm\] bias must have shape \(4,\), got \(3,\)")
        yield BadCase("scalar", (np.zeros(()), None, None), r"x must have at least one dimension")


class RMSNorm(_Norm):
    """Scales the last dimension to a mean square of 1: x [..., C], weight [C] or None."""

    name = "rms_norm"
    rms = True

    def forward(self, x: Array, weight: Array | None = None, eps: float = 1e-5) -> Array:
        return self._forward(x, None, weight, None, eps)[1]

    def backward(self, dout: Array) -> Gradients:
        return self._backward(None, dout, 1)[:2]

    @classmethod
    def cases(cls, rng: np.random.Generator) -> Iterator[Case]:
        for name, x, weight, bias in _cases(rng):
            if bias is None or weight is not None:
                yield Case(name, (x, weight), _rms_options(x))
        yield Case("eps", (rng.standard_normal((3, 8)) * 0.01, None), {"eps": 1e-2})

    @classmethod
    def bad_cases(cls) -> Iterator[BadCase]:
        yield BadCase("weight", (np.zeros((2, 4)), np.zeros(3)), r"\[rms_norm\] weight must have shape \(4,\)")
        yield BadCase("scalar", (np.zeros(()), None), r"x must have at least one dimension")


class AddLayerNorm(_Norm):
    """h = x + residual and layer_norm(h), in one pass: x, residual [..., C], weight [C] or None, bias [C] or None."""

    def forward(self, x: Array, residual: Array, weight: Array | None = None, bias: Array | None = None,
                eps: float = 1e-5) -> tuple[Array, Array]:
        return self._forward(x, residual, weight, bias, eps)

    def backward(self, dh: Array | None, dout: Array | None) -> Gradients:
        dx, dweight, dbias = self._backward(dh, dout, 2)
        return dx, dx, dweight, dbias

    @classmethod
    def cases(cls, rng: np.random.Generator) -> Iterator[Case]:
        for name, x, weight, bias in _cases(rng):
            yield Case(name, (x, rng.standard_normal(x.shape), weight, bias))

    @classmethod
    def bad_cases(cls) -> Iterator[BadCase]:
        x = np.zeros((2, 4))
        yield BadCase("residual", (x, np.zeros((1, 4)), None, None), r"residual must have x's shape \(2, 4\)")
        yield BadCase("weight", (x, x, np.zeros(3), None), r"\[add_layer_norm\] weight must have shape \(4,\)")


class AddRMSNorm(_Norm):
    """h = x + residual and rms_norm(h), in one pass: x, residual [..., C], weight [C] or None."""

    name = "add_rms_norm"
    rms = True

    def forward(self, x: Array, residual: Array, weight: Array | None = None,
                eps: float = 1e-5) -> tuple[Array, Array]:
        return self._forward(x, residual, weight, None, eps)

    def backward(self, dh: Array | None, dout: Array | None) -> Gradients:
        dx, dweight, _ = self._backward(dh, dout, 2)
        return dx, dx, dweight

    @classmethod
    def cases(cls, rng: np.random.Generator) -> Iterator[Case]:
        for name, x, weight, bias in _cases(rng):
            if bias is None or weight is not None:
                yield Case(name, (x, rng.standard_normal(x.shape), weight), _rms_options(x))

    @classmethod
    def bad_cases(cls) -> Iterator[BadCase]:
        yield BadCase("residual", (np.zeros((2, 4)), np.zeros(4), None), r"residual must have x's shape \(2, 4\)")


def _cases(rng: np.random.Generator) -> Iterator[tuple[str, Any, Any, Any]]:
    """Name, x, weight and bias of the cases that all four ops have."""
    shapes = {"odd": (3, 5), "vector": (2, 3, 8), "one_row": (12,), "one_column": (4, 1), "wide": (3, 1030),
              "wide_vector": (5, 1028), "many_rows": (70, 12), "no_rows": (0, 8)}
    for name, shape in shapes.items():
        yield name, rng.standard_normal(shape), rng.standard_normal(shape[-1:]), rng.standard_normal(shape[-1:])
    yield "plain", rng.standard_normal((6, 20)), None, None
    yield "no_bias", rng.standard_normal((6, 20)), rng.standard_normal(20), None
    yield "no_weight", rng.standard_normal((6, 20)), None, rng.standard_normal(20)


def _rms_options(x: np.ndarray) -> dict[str, Any]:
    """A single element's gradient is what eps leaves of it: an ordinary eps would leave rounding errors only."""
    return {"eps": 0.5} if x.shape[-1] == 1 else {}
