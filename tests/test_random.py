"""The random generator: published test vectors of Philox, the same bits on every backend, and its moments."""

from __future__ import annotations

import numpy as np
import pytest

import dualml as dm
from dualml import runtime
from dualml.dtypes import bfloat16, float16, float32
from dualml.ops import random as random_ops
from dualml.random import Generator

_ONES = 0xFFFFFFFF
# counter, key, words: kat_vectors of Random123 (Salmon et al. 2011), philox4x32 with 10 rounds
_VECTORS = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((_ONES,) * 4, (_ONES,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    ((0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344), (0xA4093822, 0x299F31D0),
     (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1)),
]


@pytest.mark.parametrize(("counter", "key", "words"), _VECTORS)
def test_published_vectors(counter: tuple[int, ...], key: tuple[int, int], words: tuple[int, ...]) -> None:
    made = random_ops.philox(np.array(counter, np.uint64).reshape(4, 1), key)
    assert made.reshape(-1).tolist() == list(words)


def _generator() -> Generator:
    """One whose counter carries from its low word into its high one after a few numbers."""
    generator = Generator(0x1234_5678_9ABC_DEF0)
    generator.set_state({"seed": generator.seed, "position": 7 * 2**32 - 20})
    return generator


@pytest.mark.parametrize("count", [0, 1, 7, 64, 1001])
def test_same_bits_as_cpu(backend: str, count: int) -> None:
    here, cpu = runtime.get(backend), runtime.get("cpu")
    for dtype in {float32, float16, bfloat16} & here.dtypes:
        for low, high in ((0.0, 1.0), (-0.3, 0.3)):
            got, want = (random_ops.uniform((count,), dtype, b, _generator(), low, high).numpy() for b in (here, cpu))
            np.testing.assert_array_equal(got, want)
            assert not count or (got.min() >= np.array(low, got.dtype) and got.max() < high)  # low rounds like them
    for low, high in ((0, 10), (-5, 7), (-2**31, 2**31 - 1)):
        got, want = (random_ops.randint(low, high, (count,), b, _generator()).numpy() for b in (here, cpu))
        np.testing.assert_array_equal(got, want)
        assert not count or (got.min() >= low and got.max() < high)
    got, want = (random_ops.normal((count,), float32, b, _generator()).numpy() for b in (here, cpu))
    np.testing.assert_allclose(got, want, rtol=0, atol=2e-6)


def test_no_two_uses_share_numbers(fast_backend: str) -> None:
    dm.manual_seed(5)
    apart = np.concatenate([dm.rand(6).numpy(), dm.rand(8).numpy()])
    dm.manual_seed(5)
    together = dm.rand(16).numpy()
    np.testing.assert_array_equal(apart, np.concatenate([together[:6], together[8:]]))


def test_state_goes_back() -> None:
    dm.manual_seed(11)
    dm.rand(9)
    state = dm.random.get_state()
    first = dm.randn(5).numpy()
    dm.random.set_state(state)
    np.testing.assert_array_equal(first, dm.randn(5).numpy())
    with pytest.raises(ValueError, match=r"\[random\] state must hold seed and position"):
        dm.random.set_state({"seed": 1})


def test_base_advances_where_offsets_end() -> None:
    generator, cpu = Generator(1), runtime.get("cpu")
    old, _ = generator.reserve(4, cpu)
    generator.offset = 2**31 - 1
    position = generator.position
    state, offset = generator.reserve(8, cpu)
    assert (generator.base, offset, generator.position) == (position, 0, position + 2)
    assert old.numpy().tolist() == [1, 0, 0, 0]
    assert state.numpy().tolist() == [1, 0, 2**31 - 1, 0]


def test_moments(cpu: None) -> None:
    dm.manual_seed(0)
    z = dm.randn(1 << 18).numpy().astype(np.float64)
    assert abs(z.mean()) < 0.01
    assert abs(z.std() - 1) < 0.01
    assert abs((z**4).mean() - 3) < 0.06
    assert abs(np.corrcoef(z[::2], z[1::2])[0, 1]) < 0.01
    u = dm.rand(1 << 18).numpy()
    counts = np.histogram(u, 64, (0, 1))[0]
    assert ((counts - counts.mean())**2 / counts.mean()).sum() < 120  # chi square, 63 degrees of freedom: 1 in 10^5


def test_dropout_keeps_its_share_and_repeats_its_mask(fast_backend: str) -> None:
    dm.manual_seed(3)
    x = dm.ones(1 << 14, requires_grad=True)
    out = dm.functional.dropout(x, 0.25)
    out.sum().backward()
    kept = out.detach().numpy() != 0
    assert abs(kept.mean() - 0.75) < 0.02
    np.testing.assert_array_equal(x.grad.numpy(), out.detach().numpy())
    np.testing.assert_allclose(out.detach().numpy()[kept], 1 / 0.75, rtol=1e-6)


@pytest.mark.parametrize("n", [0, 1, 257])
def test_randperm(n: int, fast_backend: str) -> None:
    dm.manual_seed(2)
    first, second = dm.randperm(n).numpy(), dm.randperm(n).numpy()
    assert sorted(first) == list(range(n))
    assert n < 2 or (first != second).any()
