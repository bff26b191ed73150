"""A thousand steps leave nothing behind: no buffers, no bind groups, no cached things, no Python objects."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import dualml as dm
from dualml import nn, optim, runtime
from dualml.kernel import KERNELS
from dualml.memory import living
from dualml.ops.elementwise import expression_kernel

WARM, STEPS = 250, 1008  # a multiple of the 16 replays whose results webgpu allocates at once
KILOBYTES = 20  # of Python memory over all steps: less than the smallest object for each

Step = Callable[[dm.Tensor, dm.Tensor], dm.Tensor]


def _step(slow: bool) -> Step:
    """A training step of a small network, with what changes from step to step: dropout, clipping, a schedule."""
    model = nn.Linear(3, 2) if slow else nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Dropout(0.1), nn.Linear(8, 3))
    optimizer: optim.Optimizer = optim.SGD(model.parameters()) if slow else optim.AdamW(model.parameters())
    schedule = optim.LRScheduler(optimizer, lambda count: 1e-3 / (1 + count))

    def step(x: dm.Tensor, y: dm.Tensor) -> dm.Tensor:
        loss = nn.functional.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        if not slow:
            optim.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        return loss
    return step


def _counts(backend: Any) -> dict[str, int]:
    """Everything that must stay as it is."""
    gc.collect()
    found = backend.memory() | {"buffers": len(living(backend)), "expressions": expression_kernel.cache_info().currsize,
                                "programs": sum(len(m.specs) for k in KERNELS.values() for m in k.made.values())}
    for name in ("_groups", "_lent", "_freed", "_pending", "_touched", "_layouts"):
        if hasattr(backend, name):
            found[name] = len(getattr(backend, name))
    return found


@pytest.mark.parametrize("captured", [False, True], ids=["eager", "captured"])
def test_nothing_grows_over_a_thousand_steps(backend: str, captured: bool) -> None:
    slow, target, rng = backend == "cuda_on_cpu", runtime.current(), np.random.default_rng(0)
    dm.manual_seed(1)
    step: Any = dm.capture(_step(slow)) if captured else _step(slow)
    sizes = ((2, 3), 2) if slow else ((5, 4), 3)

    gc.collect()  # buffers of other tests, which would join the pool later on and make new bind groups
    target.trim()
    seen: list[dict[str, int]] = []
    traced: list[int] = []
    tracemalloc.start()
    try:
        for index in range(WARM + STEPS + 1):
            x = dm.tensor(rng.standard_normal(sizes[0]).astype(np.float32))
            y = dm.tensor(rng.integers(0, sizes[1], sizes[0][0]).astype(np.int32))
            assert step(x, y).item() > 0
            if index in (WARM, WARM + STEPS):
                seen.append(_counts(target))
                traced.append(tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()
    grown = {name: (seen[0][name], count) for name, count in seen[1].items() if count > seen[0][name]}
    assert not grown
    assert traced[1] - traced[0] < KILOBYTES * 1024


def test_ever_new_scalars_are_forgotten(cpu: None) -> None:
    """A number that is new at every launch does not fill the cpu backend's memory of shapes."""
    x = dm.ones(3)
    for number in range(500):
        x * float(number)
    kernels = [k for k in gc.get_objects() if type(k).__name__ == "_Reference"]
    assert kernels
    assert max(len(k.known) for k in kernels) <= 128
