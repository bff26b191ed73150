"""What all tests share: which backends there are, and how a missing one shows."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

from dualml import runtime
from tests.parity.modes import BACKENDS, MISSING, PRESENT, REQUIRED

# PyPI's PyTorch for Linux brings Triton, whose LLVM crashes a process that has Mesa's loaded; no test needs it
sys.modules.setdefault("triton", None)  # type: ignore[arg-type]


def pytest_report_header() -> list[str]:
    lines = [f"dualml on {', '.join(f'{n} ({runtime.get(n).device.name})' for n in PRESENT)}"]
    return lines + [f"{'REQUIRED BUT MISSING' if n in REQUIRED else 'not there'}: {n}: {r}" for n, r in MISSING.items()]


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
