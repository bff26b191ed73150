"""What Mesa's Vulkan driver for CPUs, lavapipe, is told before it starts. A variable that is already set stays."""

from __future__ import annotations

import os
from pathlib import Path

WIDTH, THREADS = "LP_NATIVE_VECTOR_WIDTH", "LP_NUM_THREADS"  # Mesa's own; the first in bits, 32 for each invocation
_FOR_512 = {"avx512f", "avx512bw", "avx512dq", "avx512vl"}
_MOST_THREADS = 16  # that every version of the driver takes


def prepare() -> None:
    """512 bits where the CPU has AVX-512: unasked, Mesa stops at 256. And up to four threads a core, 16 in all: work is
    dealt out in equal parts, one a thread, and the last is waited for; of more parts than cores a slow core gets fewer.
    """
    if WIDTH not in os.environ and _cpu_features() >= _FOR_512:
        os.environ[WIDTH] = "512"
    cores = _cores()
    if THREADS not in os.environ and 1 < cores < _MOST_THREADS:
        os.environ[THREADS] = str(min(4 * cores, _MOST_THREADS))


def _cpu_features() -> set[str]:
    """As Linux names them; none where it does not say."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return set()
    return set(next((line for line in lines if line.startswith("flags")), "").split())


def _cores() -> int:
    """Those this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
