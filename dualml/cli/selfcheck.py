"""A few operations, forward and backward, on one backend against NumPy in float64. Quick: the whole truth is the test
suite's generated parity test."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .. import creation, functional as F, random
from ..errors import DualmlError
from ..tensor import Tensor

TOLERANCE = 2e-5  # of the result's scale: float32 sums of a few hundred terms, and WGSL's looser exp and tanh


@dataclass
class Result:
    """Largest error relative to the largest value, and the time of a second call (the first one compiles)."""

    error: float = 0.0
    seconds: float = 0.0
    problem: str = ""

    @property
    def right(self) -> bool:
        return not self.problem and self.error <= TOLERANCE


def _shapes(*shapes: tuple[int, ...]) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.standard_normal(s) for s in shapes]


def _loss(logits: Tensor) -> Tensor:
    targets = np.random.default_rng(1).integers(0, logits.shape[1], logits.shape[0]).astype(np.int32)
    return F.cross_entropy(logits, creation.tensor(targets, backend=logits.backend))


CHECKS: dict[str, tuple[Callable[..., Tensor], list[np.ndarray]]] = {
    "add, broadcast": (lambda a, b: a + b, _shapes((33, 1, 65), (7, 65))),
    "gelu": (lambda a: F.gelu(a, "tanh"), _shapes((1000,))),
    "sum over a dimension": (lambda a: a.sum(1), _shapes((9, 301, 5))),
    "matmul": (lambda a, b: a @ b, _shapes((3, 65, 129), (3, 129, 68))),
    "linear": (F.linear, _shapes((130, 64), (96, 64), (96,))),
    "softmax": (lambda a: a.softmax(-1), _shapes((31, 517))),
    "layer_norm": (lambda x, w, b: F.layer_norm(x, (256,), w, b), _shapes((70, 256), (256,), (256,))),
    "attention, causal": (lambda q: F.attention_qkv(q, 4), _shapes((2, 77, 384))),
    "cross_entropy": (_loss, _shapes((65, 301))),
}


def _run(function: Callable[..., Tensor], inputs: list[np.ndarray], backend: str, dtype: str) -> list[np.ndarray]:
    """The output and the gradient of every input, for one fixed output gradient."""
    tensors = [creation.tensor(x.astype(np.float32), dtype, backend, requires_grad=True) for x in inputs]
    output = function(*tensors)
    seed = np.random.default_rng(2).standard_normal(output.shape).astype(np.float32)
    output.backward(creation.tensor(seed, dtype, backend))
    return [output.detach().numpy(), *[t.grad.numpy() for t in tensors if t.grad is not None]]


def _compare(got: list[np.ndarray], want: list[np.ndarray]) -> float:
    if len(got) != len(want):
        return float("inf")
    errors = [np.abs(g - w).max() / (np.abs(w).max() + 1e-12) for g, w in zip(got, want, strict=True)]
    return float(np.max(errors))  # a NaN stays one, and is not right


def _check(backend: str, function: Callable[..., Tensor], inputs: list[np.ndarray]) -> Result:
    try:
        want = _run(function, inputs, "cpu", "float64")
        _run(function, inputs, backend, "float32")
        start = time.perf_counter()
        got = _run(function, inputs, backend, "float32")
        return Result(_compare(got, want), time.perf_counter() - start)
    except DualmlError as error:
        return Result(problem=str(error).split(". ")[0])


def _random_bits(backend: str) -> Result:
    """The generator's numbers must be the same everywhere, to the last bit."""
    state = random.get_state()
    drawn = []
    try:
        start = time.perf_counter()
        for place in (backend, "cpu"):
            random.manual_seed(7)
            drawn.append(creation.randint(0, 1 << 20, (1001,), backend=place).numpy())
        return Result(float((drawn[0] != drawn[1]).mean()), time.perf_counter() - start)
    except DualmlError as error:
        return Result(problem=str(error).split(". ")[0])
    finally:
        random.set_state(state)


def check_backend(name: str) -> dict[str, Result]:
    """Every check's result by its name."""
    found = {label: _check(name, function, inputs) for label, (function, inputs) in CHECKS.items()}
    found["random bits (share that differs)"] = _random_bits(name)
    return found
