"""What Mesa's Vulkan driver for CPUs, lavapipe, is told before it starts."""

from __future__ import annotations

import os
from pathlib import Path

WIDTH = "LP_NATIVE_VECTOR_WIDTH"  # Mesa's own variable: bits of a vector, 32 for each invocation of a subgroup
_FOR_512 = {"avx512f", "avx512bw", "avx512dq", "avx512vl"}


def use_wide_vectors() -> None:
    """512 bits where the CPU has AVX-512: unasked, Mesa stops at 256. A variable that is already set stays."""
    if WIDTH not in os.environ and _cpu_features() >= _FOR_512:
        os.environ[WIDTH] = "512"


def _cpu_features() -> set[str]:
    """As Linux names them; none where it does not say."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return set()
    return set(next((line for line in lines if line.startswith("flags")), "").split())
