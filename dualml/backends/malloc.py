"""The C allocator's habits under NumPy. glibc gives freed blocks of megabytes back to the system, which then has to
clear their pages anew for the next step: 4,300 page faults, a tenth of a small GPT's training step."""

from __future__ import annotations

import ctypes
import os
import platform

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3  # malloc.h
_ASKED = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_TOP_PAD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")  # the user's choice


def keep_freed_memory() -> None:
    """Lets this process keep what it frees, for the next time. Does nothing with another C library than glibc."""
    if platform.libc_ver()[0] != "glibc" or any(os.environ.get(name) for name in _ASKED):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, 32 << 20)  # the largest that glibc takes
        mallopt(_TRIM_THRESHOLD, 2**31 - 1)
        mallopt(_TOP_PAD, 64 << 20)
