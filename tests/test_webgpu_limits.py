"""What happens at the ends of a WebGPU device: more workgroups than one dimension has, tensors above the binding limit,
no memory left, a device that is gone. The last two end a device, so they run in processes of their own."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
from typing import Any

import pytest

import dualml as dm
from dualml import runtime
from dualml.array import empty
from dualml.errors import LimitError
from dualml.extend import kernel, run
from dualml.ops.create import fill
from tests.parity.modes import PRESENT, REQUIRED

if "webgpu" not in PRESENT:
    assert "webgpu" not in REQUIRED
    pytest.skip("needs a WebGPU adapter", allow_module_level=True)


@kernel("&x[N]", groups="N", block=1, wgsl="""
    @compute @workgroup_size(1)
    fn count_up(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) nwg: vec3u) {
        let g = wid.x + wid.y * nwg.x;
        if (g >= p.groups) { return; }
        x[g] += F(1.0);
    }""")
def count_up(x: Any) -> Any:
    x += 1
    return x


def test_more_workgroups_than_a_dimension_has() -> None:
    """A launch of more than 65,535 workgroups is folded in two; every element is reached, and none twice."""
    widest = runtime.get("webgpu").limits["max-compute-workgroups-per-dimension"]
    for size in (widest, widest + 1, 3 * widest + 5):
        x = fill((size,), 0, dm.float32, runtime.get("webgpu"))
        run(count_up, x)
        assert (x.numpy() == 1).all()


def test_a_tensor_above_the_binding_limit() -> None:
    limit = runtime.get("webgpu").limits["max-storage-buffer-binding-size"]
    at_the_limit = empty((limit // 4,), dm.float32, runtime.get("webgpu"))
    assert at_the_limit.nbytes == limit
    with pytest.raises(LimitError, match=rf"above this device.s binding limit of {limit >> 20} MiB"):
        empty((limit // 4 + 1,), dm.float32, runtime.get("webgpu"))
    with dm.use_backend("webgpu"), pytest.raises(LimitError, match="Use a smaller batch or split the tensor"):
        dm.ones(limit // 8, 1) + dm.ones(1, 4)


def test_memory_of_tensors_in_a_cycle_is_used_again() -> None:
    """The garbage collector ends all objects of a cycle, but the pool must get living memory from it."""
    with dm.use_backend("webgpu"):
        for size in range(1, 40):
            cycle: list[Any] = [dm.tensor([0.0] * (size * 1000))]
            cycle.append(cycle)
        del cycle
        gc.collect()
        again = [dm.full((size * 1000,), float(size)) for size in range(1, 40)]
        assert [(x * 2).sum().item() for x in again] == [2000.0 * size * size for size in range(1, 40)]


def test_freeing_waits_for_nobody() -> None:
    """Who reads holds the lock and waits for a thread of wgpu-py, in which the collector may free buffers."""
    backend = runtime.get("webgpu")
    held = [empty((1000,), dm.float32, backend)]
    before = backend.memory()["in_use"]
    with backend._lock:
        other = threading.Thread(target=held.clear, daemon=True)
        other.start()
        other.join(10)
        assert not other.is_alive()
    assert backend.memory()["in_use"] < before


GONE = """
import dualml as dm
from dualml.errors import DeviceLostError
dm.set_backend("webgpu")
backend = dm.runtime.get("webgpu")
x = dm.ones(1000)
assert (x * 2).sum().item() == 2000
backend.gpu.destroy()
for attempt in (lambda: (x * 3).sum().item(), lambda: x.numpy(), lambda: dm.ones(3000), lambda: dm.tensor([1.0]),
                backend.synchronize):
    try:
        attempt()
    except DeviceLostError as error:
        assert "the device was lost" in str(error) and "last checkpoint" in str(error), error
    else:
        raise SystemExit("a lost device was not noticed")
"""

FULL = """
import resource
import dualml as dm
from dualml.errors import OutOfMemoryError
dm.set_backend("webgpu")
x = dm.ones(1000)
assert (x * 2).sum().item() == 2000
mapped = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (mapped + 400 * 2**20,) * 2)
kept = []
try:
    for _ in range(40):
        kept.append(dm.full((2**24,), 1.0))
except OutOfMemoryError as error:
    assert "has no 64.0 MiB left" in str(error) and "MiB are in use. Use a smaller batch" in str(error), error
else:
    raise SystemExit("40 tensors of 64 MiB fitted into 400 MiB")
kept.clear()
assert (x * 2).sum().item() == 2000  # the backend goes on
assert dm.full((2**24,), 1.0).shape == (2**24,)  # in the memory that came back
"""


@pytest.mark.parametrize("script", [GONE, FULL], ids=["device gone", "memory full"])
def test_the_end_of_a_device(script: str) -> None:
    if script is FULL and sys.platform != "linux":
        pytest.skip("limits a process's memory by Linux's means")
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
