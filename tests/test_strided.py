"""The copy kernels against NumPy's indexing, over random shapes, orders, steps and dtypes."""

from __future__ import annotations

import numpy as np
import pytest

from dualml import runtime
from dualml.array import Array, from_numpy
from dualml.ops.strided import expanded, permuted, placed, sliced, write_slice

_SIZES = [1, 2, 3, 4, 5, 8, 9, 12, 16, 33]


def _slices(rng: np.random.Generator, shape: tuple[int, ...]) -> tuple[list[int], list[int], list[int]]:
    starts, sizes, steps = [], [], []
    for whole in shape:
        step = int(rng.choice([1, 1, 1, 2, 3, -1, -2]))
        start = int(rng.integers(0, whole)) if rng.random() < 0.7 else 0 if step > 0 else whole - 1
        most = (whole - 1 - start) // step + 1 if step > 0 else start // -step + 1
        sizes.append(int(rng.integers(1, most + 1)) if rng.random() < 0.6 else most)
        starts.append(start)
        steps.append(step)
    return starts, sizes, steps


@pytest.mark.parametrize("seed", range(12))
def test_copies_agree_with_numpy(fast_backend: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    device = runtime.get(fast_backend)
    shape = tuple(int(n) for n in rng.choice(_SIZES, rng.integers(1, 5)))
    host = (rng.standard_normal(shape) * 50).astype(rng.choice([np.float32, np.float16, np.int32]))

    def put(values: np.ndarray) -> Array:
        return from_numpy(values, backend=device)

    axes = rng.permutation(len(shape)).tolist()
    np.testing.assert_array_equal(permuted(put(host), axes).numpy(), host.transpose(axes))

    narrow = host[tuple(slice(0, 1) if rng.random() < 0.4 else slice(None) for _ in shape)]
    np.testing.assert_array_equal(expanded(put(narrow), (2, *shape)).numpy(), np.broadcast_to(narrow, (2, *shape)))

    starts, sizes, steps = _slices(rng, shape)
    where = np.ix_(*[b + t * np.arange(n) for b, n, t in zip(starts, sizes, steps, strict=True)])
    np.testing.assert_array_equal(sliced(put(host), starts, sizes, steps).numpy(), host[where])

    spread = np.zeros_like(host)
    spread[where] = host[where]
    np.testing.assert_array_equal(placed(put(host[where]), shape, starts, steps).numpy(), spread)

    target, changed = put(host), host.copy()
    changed[where] = 7
    write_slice(target, put(changed[where]), starts, steps)
    np.testing.assert_array_equal(target.numpy(), changed)


def test_large_transposes(fast_backend: str) -> None:
    device = runtime.get(fast_backend)
    for shape, axes in (((130, 68), (1, 0)), ((3, 65, 5, 40), (0, 2, 3, 1)), ((40, 6, 72), (2, 1, 0))):
        host = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
        np.testing.assert_array_equal(permuted(from_numpy(host, backend=device), axes).numpy(), host.transpose(axes))


def test_too_many_dimensions() -> None:
    array = from_numpy(np.zeros((2,) * 8, np.float32), backend=runtime.get("cpu"))
    with pytest.raises(ValueError, match=r"\[layout\] a copy must have at most 6 separate dimensions, got 8"):
        permuted(array, tuple(reversed(range(8))))
