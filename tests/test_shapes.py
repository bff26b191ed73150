"""Shapes and layouts that nobody thought of, against NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

import dualml as dm
from tests.parity.modes import PRESENT

FAST = [n for n in PRESENT if n != "cuda_on_cpu"]
fixed = settings(derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck))
many, few = settings(fixed, max_examples=60), settings(fixed, max_examples=25)
everywhere = pytest.mark.parametrize("backend", FAST)

sizes = st.integers(0, 9)
shapes = st.lists(sizes, max_size=4).map(tuple)
filled = st.lists(st.integers(1, 9), min_size=1, max_size=4).map(tuple)


def _values(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """Distinct small integers as float32: sums and copies are exact."""
    return np.random.default_rng(seed).permutation(int(np.prod(shape))).reshape(shape).astype(np.float32) - 3


def _equal(here: Any, there: Any) -> None:
    np.testing.assert_array_equal(here.numpy(), np.asarray(there))


@st.composite
def broadcasting(draw: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Two shapes that broadcast: of each dimension either may be 1, and either may lack leading ones."""
    whole = draw(shapes)
    pair = []
    for _ in range(2):
        kept = whole[draw(st.integers(0, len(whole))):]
        pair.append(tuple(1 if draw(st.booleans()) and draw(st.booleans()) else n for n in kept))
    return pair[0], pair[1]


@everywhere
@many
@given(broadcasting())
def test_broadcasting(backend: str, pair: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    """a - b, and the gradient of each summed over what was repeated."""
    a, b = (_values(s, i) for i, s in enumerate(pair))
    x, y = (dm.tensor(v, backend=backend, requires_grad=True) for v in (a, b))
    out = x - y
    _equal(out.detach(), a - b)
    weights = _values(out.shape, 5)
    (out * dm.tensor(weights, backend=backend)).sum().backward()
    for tensor, sign in ((x, 1), (y, -1)):
        padded = (1,) * (out.ndim - tensor.ndim) + tensor.shape
        dims = tuple(d for d in range(out.ndim) if padded[d] == 1)
        _equal(tensor.grad, sign * weights.sum(dims, keepdims=True).reshape(tensor.shape))


@everywhere
@many
@given(st.data())
def test_reductions(backend: str, data: Any) -> None:
    shape = data.draw(shapes)
    dims = tuple(sorted(data.draw(st.sets(st.integers(0, max(len(shape) - 1, 0)), max_size=len(shape)))))
    keep, values = data.draw(st.booleans()), _values(shape)
    x, dim = dm.tensor(values, backend=backend), dims or None
    _equal(x.sum(dim, keep), values.sum(dim, keepdims=keep))
    if values.size:
        _equal(x.amax(dim, keep), values.max(dim, keepdims=keep))
        np.testing.assert_allclose(x.mean(dim, keep).numpy(), values.mean(dim, keepdims=keep), 1e-5, 1e-5)
    if dims and values.size:
        _equal(x.argmin(dims[0], keep), values.argmin(dims[0], keepdims=keep))


@everywhere
@few
@given(st.integers(0, 3), st.integers(0, 2000), st.integers(0, 3))
def test_long_reductions(backend: str, before: int, length: int, after: int) -> None:
    """Around the sizes at which kernels change hands."""
    values = _values((before, length, after)) % 7
    _equal(dm.tensor(values, backend=backend).sum(1), values.sum(1))


@st.composite
def keys(draw: Any, shape: tuple[int, ...]) -> tuple[Any, ...]:
    """Indices, slices with steps, None and one ellipsis."""
    count = draw(st.integers(0, len(shape)))
    parts: list[Any] = []
    for size in shape[:count]:
        step = draw(st.sampled_from((1, 1, 2, 3, 4)))
        bounds = st.none() | st.integers(-size - 2, size + 2)
        part: Any = slice(draw(bounds), draw(bounds), step)
        parts.append(draw(st.integers(-size, size - 1)) if draw(st.booleans()) else part)
        if draw(st.integers(0, 5)) == 0:
            parts.append(None)
    return (*parts, ...) if draw(st.booleans()) else tuple(parts)


@everywhere
@many
@given(st.data())
def test_slicing(backend: str, data: Any) -> None:
    """The part, and its gradient: ones where the part was."""
    shape = data.draw(filled)
    key, values = data.draw(keys(shape)), _values(shape)
    x = dm.tensor(values, backend=backend, requires_grad=True)
    part = x[key]
    _equal(part.detach(), values[key])
    part.sum().backward()
    want = np.zeros_like(values)
    want[key] = 1
    _equal(x.grad, want)


@everywhere
@many
@given(st.data())
def test_permute(backend: str, data: Any) -> None:
    shape = data.draw(st.lists(st.sampled_from((1, 2, 3, 8, 12)), min_size=1, max_size=5).map(tuple))
    axes, values = data.draw(st.permutations(range(len(shape)))), _values(shape)
    x = dm.tensor(values, backend=backend, requires_grad=True)
    moved = x.permute(*axes)
    _equal(moved.detach(), values.transpose(axes))
    weights = _values(moved.shape, 3)
    (moved * dm.tensor(weights, backend=backend)).sum().backward()
    _equal(x.grad, weights.transpose(np.argsort(axes)))


@everywhere
@few
@given(st.data())
def test_cat_and_split(backend: str, data: Any) -> None:
    shape = data.draw(filled)
    dim = data.draw(st.integers(0, len(shape) - 1))
    lengths = data.draw(st.lists(st.integers(0, 6), min_size=1, max_size=4))
    parts = [_values((*shape[:dim], n, *shape[dim + 1:]), i) for i, n in enumerate(lengths)]
    whole = dm.cat([dm.tensor(p, backend=backend) for p in parts], dim)
    _equal(whole, np.concatenate(parts, dim))
    for here, there in zip(whole.split(lengths, dim), parts, strict=True):
        _equal(here, there)


@everywhere
@few
@given(st.data())
def test_matmul(backend: str, data: Any) -> None:
    """Batches that broadcast, any of the sizes 0, and operands that come transposed."""
    m, n, k = (data.draw(st.sampled_from((0, 1, 2, 5, 8, 17, 33))) for _ in range(3))
    left, right = data.draw(broadcasting())
    a, b = _values((*left, m, k)) % 5, _values((*right, k, n), 1) % 5
    x, y = dm.tensor(a, backend=backend), dm.tensor(b, backend=backend)
    _equal(x @ y, a @ b)
    _equal(dm.tensor(a.swapaxes(-1, -2), backend=backend).mT @ y, a @ b)


@everywhere
@few
@given(shapes, st.data())
def test_reshape_and_expand(backend: str, shape: tuple[int, ...], data: Any) -> None:
    values = _values(shape)
    x = dm.tensor(values, backend=backend)
    _equal(x.reshape(-1) if values.size else x.reshape(0), values.reshape(-1))
    lead = data.draw(st.lists(st.integers(1, 3), max_size=2).map(tuple))
    _equal(x.expand(*lead, *shape), np.broadcast_to(values, (*lead, *shape)))
    counts = (*lead, *shape[:2], *(1,) * len(shape[2:]))  # a copy has at most six dimensions
    _equal(x.repeat(*counts), np.tile(values, counts))
