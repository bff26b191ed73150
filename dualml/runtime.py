"""The one door to a device: `launch`. Also: which backends there are, and which one is current.

Debug prints, checking, profiling and capture are hooks on the door, registered from above; nothing here imports them.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from .backends.base import Backend, Binding, Buffer
from .config import config
from .dtypes import DType
from .errors import BackendError
from .kernel import DeviceInfo, Kernel, Scalar, Spec, drop_oldest

T = TypeVar("T")

# ---- backends ---------------------------------------------------------------------------------------------------

_FACTORIES: dict[str, tuple[str, str]] = {
    "cpu": ("dualml.backends.cpu", "CpuBackend"),
    "webgpu": ("dualml.backends.webgpu", "WebGpuBackend"),
    "cuda": ("dualml.backends.cuda", "CudaBackend"),
}
_open: dict[str, Backend] = {}
_failed: dict[str, BackendError] = {}
_current: list[str] = []  # what set_backend chose
_within: ContextVar[str | None] = ContextVar("backend", default=None)  # what use_backend chose, in this thread only


def register_backend(name: str, module: str, factory: str) -> None:
    """Adds a backend by the module and class that make it; the class is imported when the backend is first used."""
    _FACTORIES[name] = (module, factory)


_BY_WEBGPU = ("metal", "mps", "vulkan", "dx12", "gpu")


def backend_names() -> list[str]:
    return list(_FACTORIES)


def get(name: str) -> Backend:
    """The backend of that name, opened at first use. Raises BackendError that says why it cannot be had."""
    if name == "auto":
        return get(_choose())
    if name in _open:
        return _open[name]
    if name not in _FACTORIES:
        fix = " Metal, Vulkan and DX12 are reached by webgpu." if str(name) in _BY_WEBGPU else ""
        raise BackendError(f"[backend] expected auto or one of {', '.join(_FACTORIES)}, got {name!r}.{fix}")
    if name not in _failed:
        module, factory = _FACTORIES[name]
        try:
            backend: Backend = getattr(importlib.import_module(module), factory)()
        except BackendError as error:
            _failed[name] = error
        else:
            if config.debug:
                print(f"dualml: {name} on {backend.device.name} ({backend.device.driver})")
            return _open.setdefault(name, backend)
    raise _failed[name]


def _choose() -> str:
    """cuda if a device answers, else webgpu on a hardware adapter, else cpu. CPU drivers must be asked for."""
    for name in ("cuda", "webgpu"):
        try:
            if not get(name).device.software:
                return name
        except BackendError:
            continue
    return "cpu"


def current() -> Backend:
    within = _within.get()
    if within is None and not _current:
        _current.append(get(config.backend).name)
    return get(within or _current[-1])


def set_backend(name: str) -> None:
    """Makes `name` (auto, cpu, webgpu, cuda) the backend on which new tensors are created."""
    found = get(name).name
    if _within.get() is None:
        _current[:] = [found]
    else:
        _within.set(found)


def get_backend() -> str:
    """Name of the backend on which new tensors are created."""
    return current().name


@contextmanager
def use_backend(name: str) -> Iterator[None]:
    """set_backend for the length of a with block."""
    token = _within.set(get(name).name)
    try:
        yield
    finally:
        _within.reset(token)


# ---- the door -----------------------------------------------------------------------------------------------------

@dataclass(slots=True)
class Launch:
    """One kernel launch: all that a hook may want to know, and all that a replay needs."""

    backend: Backend
    spec: Spec
    program: Any
    bindings: Sequence[Binding]
    params: bytes
    groups: int
    dims: Mapping[str, Scalar]


class Hook(Protocol):
    def before(self, launch: Launch) -> None: ...
    def after(self, launch: Launch) -> None: ...


hooks: list[Hook] = []


def launch(record: Launch) -> None:
    """The only place that reaches a device with work."""
    for hook in hooks:
        hook.before(record)
    record.backend.launch(record.program, record.bindings, record.params, record.groups)
    for hook in hooks:
        hook.after(record)
    seen = _recorder.get()
    if seen is not None:
        seen.launched(record)


# ---- recording ----------------------------------------------------------------------------------------------------

class Recorder(Protocol):
    """What is told of everything that a thread does to devices while it records."""

    def launched(self, record: Launch) -> None: ...
    def allocated(self, buffer: Buffer) -> None: ...
    def written(self, buffer: Buffer, offset: int, data: Any) -> None: ...
    def copied(self, source: Binding, target: Binding) -> None: ...
    def read(self, buffer: Buffer) -> None: ...
    def acted(self, action: Callable[[], None]) -> None: ...
    def relied(self, key: object, read: Callable[[], object], value: object, told: bool) -> None: ...
    def used(self, owner: Any, attribute: Any, change: bool) -> None: ...


_recorder: ContextVar[Recorder | None] = ContextVar("recorder", default=None)


def recorder() -> Recorder | None:
    """The recording under way in this thread, if any."""
    return _recorder.get()


@contextmanager
def recorded_by(seen: Recorder | None) -> Iterator[None]:
    """Tells `seen` of what this thread does; nobody where it is None, as for a hook that looks at a recorded step."""
    token = _recorder.set(seen)
    try:
        yield
    finally:
        _recorder.reset(token)


def replayed(action: Callable[[], None]) -> None:
    """Does host work that belongs to a step, such as writing its learning rate to the device: now, and again before
    every replay of the step if it is being captured."""
    seen = _recorder.get()
    if seen is None:
        action()
    else:
        seen.acted(action)


def relied(key: Hashable, read: Callable[[], T], told: bool = False) -> T:
    """What `read` gives, such as a module's mode. A captured step is replayed only as long as that stays the same;
    `key` says whose it is, so that it is noted once. `told`: nn.module.Told counts its changes."""
    value, seen = read(), _recorder.get()
    if seen is not None:
        seen.relied(key, read, value, told)
    return value


# ---- kernels' programs --------------------------------------------------------------------------------------------


def _variant_for(kernel: Kernel, device: DeviceInfo, types: tuple[tuple[str, DType], ...],
                 dims: Mapping[str, Scalar]) -> Any:
    for variant in kernel.variants:
        fits = not variant.dtypes or all(t in variant.dtypes for _, t in types)
        if fits and variant.backend == device.backend and variant.when(device, dims):
            return variant
    return None


_MOST_PROGRAMS = 1024  # compiled forms of one kernel that are kept
Resolved = tuple[Spec, Any, Callable[[Mapping[str, Scalar]], int]]


def specialise(backend: Backend, kernel: Kernel, types: tuple[tuple[str, DType], ...],
               dims: Mapping[str, Scalar]) -> Resolved:
    """The Spec a kernel has for these dtypes and sizes on a backend, its compiled program and its group count."""
    constants = tuple((n, dims[n]) for n in dims if n in kernel.static)
    vectors, width = kernel.vectors(dims)
    variant = _variant_for(kernel, backend.device, types, dims) if kernel.variants else None
    specs, key = kernel.made_for(backend).specs, (types, constants, vectors, variant)
    found: Resolved | None = specs.get(key)
    if found is None:
        block = kernel.block_on(backend.device)
        code, extra = kernel.groups, {}
        if variant:
            block, code, extra = variant.block or backend.device.subgroup_size, variant.groups, dict(variant.constants)
        spec = Spec(kernel, types, (*constants, *extra.items()), block, width, variant, vectors)
        program = backend.build(spec)
        if len(specs) >= _MOST_PROGRAMS:
            drop_oldest(specs)  # ever new sizes must not fill the memory
        found = specs[key] = (spec, program, lambda d: kernel.group_count(code, {**d, **extra}, block, width))
    return found
