"""How references go through large arrays: in blocks whose temporaries stay in a core's cache, on all cores.

NumPy lets other threads run while it computes, so blocks on a few threads use cores that its ufuncs alone leave idle.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import numpy as np

BLOCK = 1 << 16  # elements at a time: with fewer, threads spend their time handing the interpreter over


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(_cores() - 1, thread_name_prefix="dualml-reference")


def row_blocks(x: np.ndarray, elements: int = BLOCK) -> list[slice]:
    """Slices of x's first dimension with about so many elements each."""
    step = max(1, elements // max(1, x[:1].size))
    return [slice(start, min(start + step, len(x))) for start in range(0, len(x), step)]


def each(blocks: list[slice], work: Callable[[slice], None]) -> None:
    """work(block) for every block. Blocks must not depend on one another: cores share them out as they come."""
    helpers = min(_cores(), len(blocks)) - 1
    if helpers < 1:
        for block in blocks:
            work(block)
        return
    queue: Iterator[slice] = iter(blocks)  # advancing a list's iterator is one step for the interpreter: no lock needed

    def drain() -> None:
        with np.errstate(all="ignore"):  # a thread has its own setting; the cpu backend's does not reach it
            for block in queue:
                work(block)

    others = [_pool().submit(drain) for _ in range(helpers)]
    drain()
    for other in others:
        other.result()


if hasattr(os, "register_at_fork"):  # a forked child has the pool but none of its threads
    os.register_at_fork(after_in_child=_pool.cache_clear)
