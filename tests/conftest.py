"""What all tests share: which backends there are, and how a missing one shows."""

from __future__ import annotations

import gc
import signal
import sys
from collections.abc import Iterator

import pytest

from dualml import runtime
from dualml.kernel import KERNELS
from dualml.ops.elementwise import _prepared, expression_kernel
from dualml.ops.fused import fused_kernel
from tests.parity.modes import BACKENDS, MISSING, PRESENT, REQUIRED

# PyPI's PyTorch for Linux brings Triton, whose LLVM crashes a process that has Mesa's loaded; no test needs it
sys.modules.setdefault("triton", None)  # type: ignore[arg-type]

# `make test &` in a script has its processes ignore SIGINT, which some tests send
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_report_header() -> list[str]:
    lines = [f"dualml on {', '.join(f'{n} ({runtime.get(n).device.name})' for n in PRESENT)}"]
    return lines + [f"{'REQUIRED BUT MISSING' if n in REQUIRED else 'not there'}: {n}: {r}" for n, r in MISSING.items()]


_MOST_PROGRAMS = 200  # compiled ones that are kept from test to test: a CPU driver's take a megabyte each


@pytest.fixture(autouse=True)
def programs_are_let_go() -> Iterator[None]:
    """The parity suite compiles more of them than a machine of 16 GB holds."""
    yield
    made = sum([len(made.specs) for k in KERNELS.values() for made in k.made.values()])
    if made + expression_kernel.cache_info().currsize + fused_kernel.cache_info().currsize > _MOST_PROGRAMS:
        for kernel in KERNELS.values():
            kernel.made.clear()
        for cache in (expression_kernel, _prepared, fused_kernel):
            cache.cache_clear()
        gc.collect()


@pytest.fixture(params=PRESENT)
def backend(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each backend that answers, made the current one."""
    with runtime.use_backend(request.param):
        yield request.param


@pytest.fixture(params=[n for n in BACKENDS if n in PRESENT and n != "cuda_on_cpu"])
def fast_backend(request: pytest.FixtureRequest) -> Iterator[str]:
    """The same without the device that compiles every kernel for seconds."""
    with runtime.use_backend(request.param):
        yield request.param


@pytest.fixture
def cpu() -> Iterator[None]:
    with runtime.use_backend("cpu"):
        yield


class _Names:
    """A hook on the one door that keeps the names of what is launched."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def before(self, record: runtime.Launch) -> None:
        self.names.append(record.spec.kernel.name)

    def after(self, record: runtime.Launch) -> None: ...


@pytest.fixture
def launches() -> Iterator[list[str]]:
    """Names of the kernels launched so far in the test."""
    hook = _Names()
    runtime.hooks.append(hook)
    yield hook.names
    runtime.hooks.remove(hook)
