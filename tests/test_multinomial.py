"""dm.multinomial: the chances are those asked for, and the draws the same on every backend."""

from __future__ import annotations

import numpy as np
import pytest

import dualml as dm
from dualml import runtime
from tests.parity.modes import PRESENT

CHANCES = np.float32([0.1, 0.0, 0.4, 0.2, 0.3])


@pytest.mark.parametrize("replacement", [True, False])
def test_frequencies(replacement: bool, fast_backend: str) -> None:
    """Of 20,000 draws each count is within five standard deviations; what has no chance never comes."""
    dm.manual_seed(4)
    rows, count = (4, 5000) if replacement else (20_000, 1)
    drawn = dm.multinomial(dm.tensor(np.tile(3 * CHANCES, (rows, 1))), count, replacement)
    assert drawn.shape == (rows, count)
    counts = np.bincount(drawn.numpy().ravel(), minlength=5)
    assert counts[1] == 0
    assert (np.abs(counts - 20_000 * CHANCES) <= 5 * np.sqrt(20_000 * CHANCES * (1 - CHANCES))).all(), counts


def test_without_replacement(fast_backend: str) -> None:
    """No index twice, -1 where none is left, and the second draw's chances are those that the first one leaves."""
    dm.manual_seed(5)
    drawn = dm.multinomial(dm.tensor(np.tile(CHANCES, (20_000, 1))), 5).numpy()
    assert (drawn[:, 4] == -1).all()
    assert (np.sort(drawn[:, :4]) == [0, 2, 3, 4]).all()
    second = CHANCES[3] * sum(CHANCES[i] / (1 - CHANCES[i]) for i in (0, 2, 4))
    assert abs((drawn[:, 1] == 3).mean() - second) < 5 * np.sqrt(second / 20_000)


def test_more_than_topk_takes(fast_backend: str) -> None:
    drawn = dm.multinomial(dm.ones(600), 600).numpy()
    assert sorted(drawn) == list(range(600))
    assert (drawn != np.arange(600)).any()


def test_rows_that_have_no_chances(fast_backend: str) -> None:
    rows = dm.tensor([[0.0, 0.0], [float("nan"), 0.0], [float("inf"), 1.0], [-1.0, 2.0], [1e-30, 0.0]])
    for replacement in (True, False):
        drawn = dm.multinomial(rows, 1, replacement).numpy()
        assert drawn.ravel().tolist() == [-1, -1, -1, 1, 0], replacement
    assert dm.multinomial(dm.ones(3).half(), 2, True).shape == (2,)
    assert dm.multinomial(dm.zeros(0, 3), 2, True).shape == (0, 2)


def test_every_backend_draws_alike() -> None:
    found = []
    for name in PRESENT:
        with runtime.use_backend(name):
            dm.manual_seed(6)
            found.append(dm.multinomial(dm.tensor(np.tile(CHANCES, (3, 1))), 70, True).numpy())
    assert all((drawn == found[0]).all() for drawn in found)
    assert len({tuple(row) for row in found[0]}) == 3
