"""Cross entropy of logits and class indices, softmax included (PyTorch's cross_entropy for class indices).

    loss[n] = (1 - s) * (lse[n] - logits[n, target]) + s * (lse[n] - mean(logits[n])),  lse = log(sum(exp(logits)))
    dlogits = (softmax - (1 - s) * onehot(target) - s / V) * dloss / count

with the label smoothing s of Szegedy et al. 2016 (arXiv 1512.00567, section 7). Only lse is kept for the backward
pass, which recomputes the softmax. The forward pass reads the logits once: its sum of exponentials is rescaled as it
runs (Milakov, Gimelshein 2018, arXiv 1805.02867). Rows may be longer than the V classes, so that products that make
them are of sizes that tensor cores like: what comes after the classes counts for nothing, and its gradient is 0.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from ..array import Array, run
from ..errors import DTypeError, ShapeError
from ..kernel import Kernel, kernel
from .base import BadCase, Case, Gradients, Op
from .blocks import each, row_blocks

# ---- kernels --------------------------------------------------------------------------------------------------------


@kernel("logits[N,L] targets:i32[N] -> loss:f32[N] lse:f32[N] | V:u32 ignore_index:i32 smoothing",
        groups="N", block=256, software_block=8, static="L V smoothing", vector="L")
def cross_entropy_forward(logits: Any, targets: Any, V: int, ignore_index: int, smoothing: float) -> Any:
    """Loss and log-sum-exp of each row: 0 where the target is ignored, NaN where it is no class."""
    logits = logits[:, :V]
    lse = np.empty(len(logits), logits.dtype)

    def work(rows: slice) -> None:
        x = logits[rows]
        top = x.max(1, keepdims=True, initial=-np.inf)
        shifted = x - top
        lse[rows] = np.log(np.exp(shifted, out=shifted).sum(1)) + top[:, 0]
    each(row_blocks(logits), work)
    ok = (targets >= 0) & (targets < V)
    loss = lse - np.take_along_axis(logits, np.where(ok, targets, 0)[:, None], 1)[:, 0]
    if smoothing:
        loss += logits.dtype.type(smoothing) * (lse - logits.mean(1) - loss)
    loss[~ok] = np.nan
    loss[targets == ignore_index] = 0
    return loss, lse


@kernel("loss[N] targets:i32[N] -> total[1] scale[1] | ignore_index:i32 mean:u32",
        groups="1", block=256, software_block=8, static="mean", vector="N")
def cross_entropy_total(loss: Any, targets: Any, ignore_index: int, mean: int) -> Any:
    """Sum of the losses, or their mean over the rows that are not ignored (NaN if there are none), and what one row
    weighs in it: the factor of all gradients."""
    count = np.count_nonzero(targets != ignore_index) if mean else 1
    scale = np.asarray(1 / count if count else np.nan, loss.dtype)
    return loss.sum() * scale, scale


@kernel("logits[N,L] targets:i32[N] lse:f32[N] dloss:f32[D] scale:f32[1] -> dlogits[N,L] | V:u32 ignore_index:i32 "
        "smoothing", groups="N", block=256, software_block=8, static="L V smoothing", vector="L")
def cross_entropy_backward(logits: Any, targets: Any, lse: Any, dloss: Any, scale: Any, V: int, ignore_index: int,
                           smoothing: float) -> Any:
    """One pass. dloss is one number, or one per row."""
    factor = np.broadcast_to(dloss * scale, targets.shape).copy()
    ok = (targets >= 0) & (targets < V)
    factor[~ok] = np.nan
    dlogits = np.empty_like(logits)
    dlogits[:, V:] = 0

    def work(rows: slice) -> None:
        d, label, here = dlogits[rows, :V], targets[rows], ok[rows]
        np.exp(np.subtract(logits[rows, :V], lse[rows, None], out=d), out=d)
        if smoothing:
            d -= logits.dtype.type(smoothing / V)
        d[np.flatnonzero(here), label[here]] -= logits.dtype.type(1 - smoothing)
        d *= factor[rows, None]
    each(row_blocks(logits), work)
    dlogits[targets == ignore_index] = 0
    return dlogits


# ---- kernels of captured steps --------------------------------------------------------------------------------------
# Where a step takes the gradient too, and nobody else wants the logits, programs/losses.py makes both in one pass.


@kernel("targets:i32[N] -> scale[1] | ignore_index:i32", groups="1", block=256, software_block=8, vector="N")
def cross_entropy_count(targets: Any, ignore_index: int) -> Any:
    """What one row weighs in the mean, as cross_entropy_total has it, before there are losses."""
    count = np.count_nonzero(targets != ignore_index)
    return np.asarray([1 / count if count else np.nan])


@kernel("&logits[N,L] targets:i32[N] dloss:f32[D] scale:f32[1] -> loss:f32[N] | V:u32 ignore_index:i32 smoothing",
        groups="N", block=256, software_block=8, static="L V smoothing", vector="L")
def cross_entropy_in_place(logits: Any, targets: Any, dloss: Any, scale: Any, V: int, ignore_index: int,
                           smoothing: float) -> Any:
    """Forward and backward in one: the loss of each row, and logits that become their gradient."""
    loss = np.empty(len(logits), logits.dtype)
    dloss = np.broadcast_to(dloss, targets.shape)

    def work(rows: slice) -> None:
        x = logits[rows]
        loss[rows], lse = cross_entropy_forward(x, targets[rows], V, ignore_index, smoothing)
        x[:] = cross_entropy_backward(x, targets[rows], lse, dloss[rows], scale, V, ignore_index, smoothing)
    each(row_blocks(logits), work)
    return logits, loss


def kernel_cases(rng: np.random.Generator) -> Iterator[tuple[Kernel, tuple[np.ndarray, ...], dict[str, Any]]]:
    """Sample launches: rows that are held and rows that are too long, one weight for all and one each."""
    for rows, classes, more, each_its_own, smoothing in (
            (5, 7, 0, False, 0.0), (6, 64, 0, True, 0.1), (1, 1, 0, False, 0.0), (3, 1031, 0, True, 0.0),
            (300, 12, 0, False, 0.3), (2, 9004, 0, False, 0.2), (2, 17000, 0, True, 0.0), (5, 7, 1, True, 0.1),
            (3, 1031, 5, False, 0.2), (4, 12, 60, False, 0.0), (2, 16380, 4, False, 0.1)):
        targets = rng.integers(0, classes, rows).astype(np.int32)
        targets[1::3] = -100
        logits = rng.standard_normal((rows, classes + more)) * 3
        logits[:, classes:] = np.nan  # which counts for nothing
        yield cross_entropy_count, (targets,), {"ignore_index": -100}
        yield cross_entropy_in_place, (
            logits, targets, rng.standard_normal(rows if each_its_own else 1), np.array([0.25])), {
                "V": classes, "ignore_index": -100, "smoothing": smoothing}
    yield cross_entropy_in_place, (rng.standard_normal((4, 5)), np.array([1, 5, -1, 2], np.int32), np.ones(1),
                                   np.ones(1)), {"V": 5, "ignore_index": 1, "smoothing": 0.0}
    yield cross_entropy_count, (np.full(3, 2, np.int32),), {"ignore_index": 2}


# ---- op -------------------------------------------------------------------------------------------------------------

class CrossEntropy(Op):
    """Loss of logits [N, L] and targets int32 [N], in float32 whatever dtype the logits have: a number, or [N] with
    reduction "none". The first `classes` of L are classes, by default all. Rows whose target is ignore_index count for
    nothing. A target that is no class makes the loss and that row's gradient NaN: to raise an error would mean to wait
    for the device in every step."""

    def forward(self, logits: Array, targets: Array, ignore_index: int = -100, label_smoothing: float = 0.0,
                reduction: str = "mean", classes: int | None = None) -> Array:
        if logits.ndim != 2 or targets.shape != logits.shape[:1]:
            raise ShapeError(f"[cross_entropy] logits must be [N, V] and targets [N], got {logits.shape} and "
                             f"{targets.shape}. Flatten both with .reshape.")
        if targets.dtype.kind != "i":
            raise DTypeError(f"[cross_entropy] targets must be int32 class indices, got {targets.dtype.name}.")
        if not 0.0 <= label_smoothing <= 1.0:
            raise ShapeError(f"[cross_entropy] label_smoothing must be 0 to 1, got {label_smoothing}.")
        if reduction not in ("mean", "sum", "none"):
            raise ShapeError(f"[cross_entropy] reduction must be mean, sum or none, got {reduction!r}.")
        length = logits.shape[1]
        known = length if classes is None else classes
        if type(known) is bool or not isinstance(known, (int, np.integer)) or not min(1, length) <= known <= length:
            raise ShapeError(f"[cross_entropy] classes must be 1 to {length}, the logits of a row, got {classes!r}.")
        self.options: dict[str, Any] = {"V": int(known), "ignore_index": ignore_index,
                                        "smoothing": label_smoothing}
        loss, lse = run(cross_entropy_forward, logits, targets, **self.options)
        total, scale = run(cross_entropy_total, loss, targets, ignore_index=ignore_index, mean=int(reduction == "mean"))
        self.save(logits, targets, lse, scale)
        result: Array = loss if reduction == "none" else total.reshape()
        return result

    def backward(self, dloss: Array) -> Gradients:
        logits, targets, lse, scale = self.saved
        return run(cross_entropy_backward, logits, targets, lse, dloss.reshape(dloss.size), scale, **self.options), None

    @classmethod
    def cases(cls, rng: np.random.Generator) -> Iterator[Case]:
        def case(name: str, rows: int, length: int, *ignored: int, **options: Any) -> Case:
            classes = options.get("classes", length)
            targets = rng.integers(0, max(1, classes), rows).astype(np.int32)
            targets[list(ignored)] = options.get("ignore_index", -100)
            return Case(name, (rng.standard_normal((rows, length)) * 3, targets), options)

        yield case("odd", 5, 7)
        yield case("vector", 6, 64)
        yield case("one_row", 1, 3)
        yield case("one_class", 4, 1)
        yield case("wide", 3, 1031)
        yield case("wide_vector", 3, 1036, 1)
        yield case("many_rows", 300, 5, 0, 7, 299)
        yield case("sum", 6, 12, 2, reduction="sum")
        yield case("none", 8, 13, 2, reduction="none")
        yield case("smoothing", 6, 12, 2, label_smoothing=0.1)
        yield case("smoothing_odd", 6, 301, label_smoothing=0.3, reduction="none")
        yield case("ignore_a_class", 9, 4, 1, 5, ignore_index=2)
        yield case("padded", 5, 8, classes=7)
        yield case("padded_odd", 6, 303, 2, classes=301, label_smoothing=0.1)
        yield case("padded_by_vectors", 4, 1088, classes=1030, reduction="none")
        yield case("no_rows", 0, 8, reduction="sum")
        large = case("large", 4, 20)
        yield Case("large_logits", (np.asarray(large.inputs[0]) * 300, large.inputs[1]), dtypes=("float32",))
        yield Case("all_ignored", (np.ones((3, 5)), np.full(3, -100, np.int32)), differentiable=False)
        yield Case("no_class", (np.ones((4, 5)), np.array([1, 5, -1, 2], np.int32)), {"reduction": "none"},
                   differentiable=False)

    @classmethod
    def bad_cases(cls) -> Iterator[BadCase]:
        logits, targets = np.zeros((3, 5)), np.zeros(3, np.int32)
        yield BadCase("three_dimensions", (np.zeros((2, 3, 5)), targets), r"logits must be \[N, V\] and targets \[N\]")
        yield BadCase("targets", (logits, np.zeros(2, np.int32)), r"logits must be \[N, V\] and targets \[N\]")
        yield BadCase("float_targets", (logits, np.zeros(3)), r"targets must be int32")
        yield BadCase("smoothing", (logits, targets), r"label_smoothing must be 0 to 1", {"label_smoothing": 2.0})
        yield BadCase("classes", (logits, targets), r"classes must be 1 to 5, the logits of a row", {"classes": 6})
        yield BadCase("no_classes", (logits, targets), r"classes must be 1 to 5", {"classes": 0})
        yield BadCase("half_a_class", (logits, targets), r"classes must be 1 to 5", {"classes": 2.5})
        yield BadCase("reduction", (logits, targets), r"reduction must be mean, sum or none", {"reduction": "avg"})
