"""Runs an op or a kernel on a case and brings everything it makes to the host."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from dualml import dtypes, runtime
from dualml.array import Array, from_numpy, run
from dualml.backends.base import Backend
from dualml.dtypes import DType, as_dtype
from dualml.kernel import Kernel
from dualml.ops import load_all
from dualml.ops.base import OPS, Case, Op

load_all()
TESTED_OPS = {name: kind for name, kind in sorted(OPS.items()) if kind.__module__.startswith("dualml.ops.")}
KernelCase = tuple[Kernel, tuple[np.ndarray, ...], dict[str, Any]]


def rng_of(name: str) -> np.random.Generator:
    return np.random.default_rng(zlib.crc32(name.encode()))


@cache
def cases_of(name: str) -> tuple[Case, ...]:
    return tuple(OPS[name].cases(rng_of(name)))


def twisted(x: np.ndarray) -> np.ndarray:
    """Other values of the same domain and shape."""
    if x.dtype.kind == "i" and x.ndim == 1 and x.size and x[0] == 0 and (np.diff(x) >= 0).all():
        return np.ascontiguousarray(x[-1] - x[::-1])  # where sequences begin: rising, or several may own a token
    return np.ascontiguousarray(x.reshape(-1)[::-1]).reshape(x.shape)


def of_16_bits(cases: Sequence[Case], dtype: str) -> list[int]:
    """Which cases to run in a 16-bit dtype on devices that compile for seconds: the first few, as the dtype changes
    loads and stores, not the arithmetic; and all that are meant for 16-bit dtypes alone."""
    taking = [i for i, case in enumerate(cases) if dtype in case.dtypes]
    return [i for count, i in enumerate(taking) if count < 3 or "float32" not in cases[i].dtypes]


@cache
def kernel_cases() -> dict[str, list[KernelCase]]:
    """Cases of kernels that no op reaches, from the `kernel_cases` of the modules that declare them."""
    found: dict[str, list[KernelCase]] = {}
    for module in load_all():
        for case in getattr(module, "kernel_cases", lambda rng: ())(rng_of(module.__name__)):
            found.setdefault(case[0].name, []).append(case)
    return found


@dataclass
class Outcome:
    """`gradients` has an entry per input, None where there is none."""

    outputs: list[np.ndarray]
    gradients: list[np.ndarray | None]

    def named(self) -> Iterator[tuple[str, np.ndarray]]:
        yield from ((f"output {i}", x) for i, x in enumerate(self.outputs))
        yield from ((f"gradient {i}", x) for i, x in enumerate(self.gradients) if x is not None)


def rounded(x: np.ndarray | None, tested: DType, dtype: DType) -> np.ndarray | None:
    """A case's input as `dtype`, holding only values that the tested dtype has."""
    if x is None or x.dtype.kind != "f":
        return x
    return x.astype(tested.host).astype(dtype.host)


def _seeds(outputs: Sequence[Array], tested: DType) -> list[Array | None]:
    """Gradients of the outputs: the same numbers on every backend and in every dtype."""
    rng = np.random.default_rng(1)
    found: list[Array | None] = []
    for out in outputs:
        values = rng.standard_normal(out.shape).astype(tested.host).astype(out.dtype.host)
        found.append(from_numpy(values, out.dtype, out.backend) if out.dtype.is_floating_point else None)
    return found


def run_op(kind: type[Op], case: Case, tested: DType, backend: Backend, *, dtype: DType | None = None,
           only_input: int | None = None, only_output: int | None = None, into: bool = False) -> Outcome:
    """Forward and backward.

    Args:
        tested: the dtype that the inputs' values are rounded to.
        dtype: that of the inputs; `tested` unless given.
        only_input: asks for the gradient of this input alone.
        only_output: gives a gradient for this output alone.
        into: offers backward memory for each gradient.
    """
    host = [rounded(x, tested, dtype or tested) for x in case.inputs]
    arrays = [None if x is None else from_numpy(x, backend=backend) for x in host]
    op = kind()
    op.needs = tuple(a is not None and a.dtype.is_floating_point and only_input in (None, i)
                     for i, a in enumerate(arrays))
    made = op.forward(*arrays, **case.options)
    outputs: tuple[Array, ...] = made if isinstance(made, tuple) else (made,)
    gradients: Sequence[Array | None] = [None] * len(arrays)
    seeds = [s if only_output in (None, i) else None for i, s in enumerate(_seeds(outputs, tested))]
    if kind.backward is not Op.backward and any(op.needs) and any(s is not None for s in seeds):
        slots = [_slot(a) if into and need and a is not None else None
                 for a, need in zip(arrays, op.needs, strict=True)]
        op.into = tuple(slots)
        gradients = op.backward(*seeds)
        assert len(gradients) == len(arrays), f"backward gives {len(gradients)} gradients for {len(arrays)} inputs"
        for array, gradient, need in zip(arrays, gradients, op.needs, strict=True):
            assert gradient is None or not need or (array is not None and gradient.shape == array.shape
                                                    and gradient.dtype is array.dtype), \
                f"a gradient is {gradient} for an input {array}"
    op.release()
    wanted = [g.numpy() if g is not None and need else None for g, need in zip(gradients, op.needs, strict=True)]
    return Outcome([o.numpy() for o in outputs], wanted)


def _slot(like: Array) -> Array:
    """Memory at an offset, as an optimizer's arena gives it, and with something in it."""
    step = like.backend.alignment // like.backend.storage(like.dtype).itemsize
    arena = from_numpy(np.full(step + like.size, 7, like.dtype.host), like.dtype, like.backend)
    return arena.slot(step, like.shape)


def run_kernel(case: KernelCase, tested: DType, backend: Backend, dtype: DType | None = None) -> Outcome:
    """One launch: its outputs, and the tensors that it updates in place."""
    kernel, inputs, scalars = case
    used = dtype or tested
    arrays = []
    for arg, x in zip(kernel.inputs, inputs, strict=True):
        values = rounded(x, tested, used)
        if arg.type == "f32":  # float32 in every tested dtype, float64 in the reference
            values = rounded(x, dtypes.float32, dtypes.float64 if used is dtypes.float64 else dtypes.float32)
        arrays.append(from_numpy(values, backend=backend))
    bound = {a.type for a in kernel.inputs}
    free = {a.type for a in kernel.outputs} - bound - {d.short for d in dtypes.ALL}
    types = {letter: used if "f" in kernel.kinds.get(letter, "f") else dtypes.int32 for letter in free}
    made = run(kernel, *arrays, types=types, backend=backend, **scalars)
    outputs = made if isinstance(made, tuple) else () if made is None else (made,)
    changed = [arrays[i] for i in kernel.updated]
    return Outcome([x.numpy() for x in (*changed, *outputs)], [])


@cache
def references(name: str, index: int, dtype: str) -> tuple[Outcome, Outcome]:
    """Of an op's case: the outcome in float64, and NumPy's in the tested dtype."""
    case, tested, cpu = cases_of(name)[index], as_dtype(dtype), runtime.get("cpu")
    return (run_op(OPS[name], case, tested, cpu, dtype=dtypes.float64), run_op(OPS[name], case, tested, cpu))
