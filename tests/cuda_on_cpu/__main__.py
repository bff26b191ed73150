"""Runs Python with a sanitizer loaded: `python -m tests.cuda_on_cpu asan -m pytest -q tests/test_cuda_on_cpu.py`.

asan finds reads and writes outside of tensors, shared and local arrays; tsan finds missing barriers. Each report is a
KernelError of the launch that caused it, with the lines of the .cu file.
"""

import ctypes
import os
import subprocess
import sys

_OPTIONS = {
    "asan": ("libasan.so", "ASAN_OPTIONS", "detect_leaks=0:halt_on_error=0"),
    "tsan": ("libtsan.so", "TSAN_OPTIONS", "report_signal_unsafe=0:history_size=4:exitcode=0"),
}
_NO_RANDOM_ADDRESSES = 0x0040000  # personality(2): ThreadSanitizer wants memory where it has always been


def environment(sanitizer: str) -> dict[str, str]:
    """The environment of a Python process in which kernels are compiled and run under a sanitizer."""
    library, variable, options = _OPTIONS[sanitizer]
    path = subprocess.run(["g++", f"-print-file-name={library}"], capture_output=True, text=True, check=True).stdout
    orders = os.environ.get("DUALML_CUDA_ON_CPU", "")
    return os.environ | {"LD_PRELOAD": path.strip(), variable: options, "OPENBLAS_NUM_THREADS": "1",
                         "DUALML_CUDA_ON_CPU": f"{sanitizer},{orders}"}


if __name__ == "__main__":
    if len(sys.argv) < 3 or sys.argv[1] not in _OPTIONS:
        sys.exit("usage: python -m tests.cuda_on_cpu asan|tsan <python arguments>")
    if sys.argv[1] == "tsan":
        ctypes.CDLL(None).personality(_NO_RANDOM_ADDRESSES)
    os.execve(sys.executable, [sys.executable, *sys.argv[2:]], environment(sys.argv[1]))
