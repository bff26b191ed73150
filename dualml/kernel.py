"""The kernel contract: one declaration in Python, from which everything else about a kernel follows.

    @kernel("x[N,C] weight[C] bias[C] -> out[N,C] mean:f32[N] rstd:f32[N] | eps", groups="N", static="C")
    def layer_norm_forward(x, weight, bias, eps): ...      # NumPy: right in float64, what the cpu backend runs

The signature reads `inputs -> outputs | scalars`.

- A tensor is `name[dims]` or `name:dtype[dims]`. dims are names, integers or expressions of names (`3*C`). A name binds
  where it first stands among the inputs and is checked everywhere else; a name no input binds must be a scalar.
- dtype is a concrete one (f32, i32, u32, bool ...) or a capital letter that stands for any (F where none is written).
- `&name[dims]` is updated in place. The reference may write into such an array; it returns it first, then the outputs.
- A scalar is `name` (f32) or `name:u32`, `name:i32`.

`static` names become constants of the GPU sources (one compiled program per value), the others uniforms `p.NAME`.
`vector` names the last dimension that WGSL may read four elements at a time: where it is divisible by 4, tensors ending
in it are bound as arrays of vec4 and W is 4, else W is 1. Several names ("N L") are so where all are divisible; after
a comma ("Q, S") each set is judged for itself, `vectors` tells the template which are vec4, and W is 4 where all are.
"""

from __future__ import annotations

import re
import weakref
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from types import CodeType
from typing import Any

import numpy as np

from .dtypes import BY_SHORT, DType, float32, float64, int32, uint32
from .errors import DTypeError, KernelError, ShapeError

MAX_TENSORS = 8  # a browser binds at most eight storage buffers to a shader stage
_NO_NAMES: frozenset[str] = frozenset()
Scalar = int | float
Reference = Callable[..., Any]

_TENSOR = re.compile(r"(&?)(\w+)(?::(\w+))?\[([^\]]*)\]")
_SCALAR_TYPES = {"f32": float32, "u32": uint32, "i32": int32}
_HELPERS: dict[str, Any] = {"cdiv": lambda a, b: -(-a // b), "min": min, "max": max, "__builtins__": {}}


@dataclass(frozen=True)
class Arg:
    """One tensor of a signature. `access` is read, write or update (in place)."""

    name: str
    type: str
    dims: tuple[str, ...]
    access: str


@dataclass(frozen=True)
class DeviceInfo:
    """What a variant may be chosen by, and what `dualml devices` shows."""

    backend: str
    name: str
    driver: str = ""
    software: bool = False
    subgroup_size: int = 0  # 0: no subgroup operations
    features: frozenset[str] = frozenset()
    limits: Mapping[str, int] = field(default_factory=dict, hash=False)
    arch: int = 0  # CUDA compute capability, 90 for sm_90


@dataclass(frozen=True)
class Variant:
    """Another source for the same contract, `<kernel>.<name>.wgsl` or `.cu`, used where `when(device, dims)` holds."""

    name: str
    backend: str
    when: Callable[[DeviceInfo, Mapping[str, Scalar]], bool]
    groups: CodeType
    block: int
    constants: tuple[tuple[str, Scalar], ...]
    dtypes: frozenset[DType] = frozenset()  # of all type letters; empty: any


@dataclass(frozen=True)
class Spec:
    """A kernel with all that its source text depends on: dtypes, constants, block size, vector width, variant."""

    kernel: Kernel
    types: tuple[tuple[str, DType], ...]
    constants: tuple[tuple[str, Scalar], ...]
    block: int
    width: int
    variant: Variant | None = None
    vectors: frozenset[str] = frozenset()  # last dimensions whose tensors are arrays of vec4

    @property
    def stem(self) -> str:
        """Path stem of the source file below shaders/ or cuda/."""
        return f"{self.kernel.source}.{self.variant.name}" if self.variant else self.kernel.source

    @cached_property
    def wide(self) -> bool:
        """Whether this runs in float64 (the cpu backend only); statistics declared f32 are then float64 too."""
        return any(t is float64 for _, t in self.types)

    def dtype(self, arg: Arg) -> DType:
        if arg.type == "f32":
            return float64 if self.wide else float32
        return BY_SHORT.get(arg.type) or dict(self.types)[arg.type]

    @cached_property
    def struct(self) -> np.dtype:
        """Layout of the Params struct."""
        return np.dtype([(n, (float64 if self.wide and t is float32 else t).host) for n, t in self.kernel.params])

    def vectorized(self, arg: Arg) -> bool:
        return bool(arg.dims) and arg.dims[-1] in self.vectors


class Made:
    """What has been made of a kernel for a backend: `specs`, filled by runtime.specialise, are its compiled programs;
    `plans`, filled by array.run, what its launches of the same shapes, dtypes and scalars share."""

    __slots__ = ("owner", "plans", "specs")

    def __init__(self, backend: Any) -> None:
        self.owner = weakref.ref(backend)
        self.specs: dict[Any, Any] = {}
        self.plans: dict[Any, Any] = {}


@dataclass(eq=False)
class Kernel:
    """A declared kernel. `context` holds what its source template needs beyond the constants."""

    name: str
    signature: str
    reference: Reference
    inputs: tuple[Arg, ...]
    outputs: tuple[Arg, ...]
    scalars: tuple[tuple[str, DType], ...]
    groups: CodeType
    block: int
    software_block: int
    static: frozenset[str]
    vector: str
    kinds: Mapping[str, str]
    source: str
    context: Mapping[str, Any]
    texts: Mapping[str, str] = field(default_factory=dict)  # "wgsl", "cu": bodies given in Python instead of files
    variants: list[Variant] = field(default_factory=list)
    made: dict[str, Made] = field(default_factory=dict)  # by backend

    def made_for(self, backend: Any) -> Made:
        """Nothing where another backend of that name was the last: each has its own programs."""
        found = self.made.get(backend.name)
        if found is None or found.owner() is not backend:
            found = self.made[backend.name] = Made(backend)
        return found

    def block_on(self, device: DeviceInfo) -> int:
        """Invocations of a workgroup; on CPU drivers at least a subgroup, since its other lanes would idle."""
        return max(self.software_block, device.subgroup_size) if device.software else self.block

    @cached_property
    def args(self) -> tuple[Arg, ...]:
        """All tensors in binding order: inputs (in place ones among them), then outputs."""
        return self.inputs + self.outputs

    @cached_property
    def updated(self) -> tuple[int, ...]:
        return tuple(i for i, a in enumerate(self.inputs) if a.access == "update")

    @cached_property
    def dims(self) -> tuple[str, ...]:
        """Dimension names the inputs bind, in order of appearance."""
        return tuple(dict.fromkeys(d for a in self.inputs for d in a.dims if d.isidentifier()))

    @cached_property
    def params(self) -> tuple[tuple[str, DType], ...]:
        """Fields of the Params struct of both GPU sources; `groups` is the number of workgroups that have work."""
        names = [(d, uint32) for d in self.dims if d not in dict(self.scalars)]
        return tuple((n, t) for n, t in [*names, *self.scalars, ("groups", uint32)] if n not in self.static)

    @cached_property
    def _expressions(self) -> dict[str, CodeType]:
        dims = {d for a in self.args for d in a.dims if not d.isidentifier() and not d.isdigit()}
        return {d: compile(d, f"<{self.name}>", "eval") for d in dims}

    def size(self, dim: str, dims: Mapping[str, Scalar]) -> int:
        if dim.isdigit():
            return int(dim)
        found = dims.get(dim)
        return int(found if found is not None else eval(self._expressions[dim], _HELPERS, dict(dims)))

    def bind(self, shapes: list[tuple[int, ...]], scalars: Mapping[str, Scalar]) -> dict[str, Scalar]:
        """Sizes of all dimension names, or a ShapeError that names the tensor that does not fit."""
        dims: dict[str, Scalar] = dict(scalars)
        where: dict[str, str] = {}
        for arg, shape in zip(self.inputs, shapes, strict=True):
            if len(shape) != len(arg.dims):
                raise ShapeError(f"[{self.name}] {arg.name} must be [{','.join(arg.dims)}], got shape {shape}.")
            for name, size in zip(arg.dims, shape, strict=True):
                if name not in dims and name.isidentifier():
                    dims[name] = size
                    where[name] = arg.name
        for arg, shape in zip(self.inputs, shapes, strict=True):
            for name, size in zip(arg.dims, shape, strict=True):
                want = self.size(name, dims)
                if want != size:
                    origin = f" (from {where[name]})" if name in where else ""
                    raise ShapeError(f"[{self.name}] {arg.name} must be [{','.join(arg.dims)}] with "
                                     f"{name}={want}{origin}, got shape {shape}.")
        return dims

    def bind_types(self, dtypes: list[DType], outputs: Mapping[str, DType]) -> tuple[tuple[str, DType], ...]:
        """The dtype of each type letter, or a DTypeError that names the tensor that does not fit."""
        types: dict[str, DType] = dict(outputs)
        for arg, dtype in zip(self.inputs, dtypes, strict=True):
            want = BY_SHORT.get(arg.type) or types.setdefault(arg.type, dtype)
            if dtype is not want and not (arg.type == "f32" and dtype is float64):
                raise DTypeError(f"[{self.name}] {arg.name} must be {want.name}, got {dtype.name}. "
                                 f"Cast it with .to({want.name}).")
            kinds = self.kinds.get(arg.type, "f") if arg.type in types else None
            if kinds and dtype.kind not in kinds:
                allowed = " or ".join({"f": "floating", "i": "integer", "b": "bool"}[k] for k in kinds)
                raise DTypeError(f"[{self.name}] {arg.name} must be {allowed}, got {dtype.name}.")
        if float64 in types.values():  # statistics are float64 then, so float32 ones would be read wrongly
            for arg, dtype in zip(self.inputs, dtypes, strict=True):
                if arg.type == "f32" and dtype is float32:
                    raise DTypeError(f"[{self.name}] {arg.name} must be float64 like the other inputs, got float32.")
        return tuple(types.items())

    @cached_property
    def _vector_sets(self) -> tuple[tuple[str, ...], ...]:
        return tuple(tuple(names.split()) for names in self.vector.split(",") if names.strip())

    def vectors(self, dims: Mapping[str, Scalar]) -> tuple[frozenset[str], int]:
        """Last dimensions that are read as vec4 at these sizes, and W."""
        if not self._vector_sets:
            return _NO_NAMES, 1
        fit = [names for names in self._vector_sets if all(int(self.size(n, dims)) % 4 == 0 for n in names)]
        width = 4 if len(fit) == len(self._vector_sets) else 1
        return frozenset(n for names in fit for n in names), width

    def group_count(self, code: CodeType, dims: Mapping[str, Scalar], block: int, width: int) -> int:
        return max(1, int(eval(code, _HELPERS, {**dims, "BLOCK": block, "W": width})))

    def variant(self, name: str, backend: str, when: Callable[[DeviceInfo, Mapping[str, Scalar]], bool], *,
                groups: str, block: int, constants: Mapping[str, Scalar] | None = None,
                dtypes: Sequence[DType] = ()) -> None:
        """Declares `<kernel>.<name>` as the source used on `backend` where `when(device, dims)` holds; the first match
        wins. A block of 0 is one subgroup. `constants` are u32 in the source and in `groups`; one source may serve
        several variants. `dtypes`, where given, are those that the type letters may stand for."""
        self.variants.append(Variant(name, backend, when, compile(groups, f"<{self.name}.{name}>", "eval"), block,
                                     tuple((constants or {}).items()), frozenset(dtypes)))

    def __call__(self, *arrays: Any, **scalars: Any) -> Any:
        return self.reference(*arrays, **scalars)

    def __repr__(self) -> str:
        return f"Kernel({self.name}: {self.signature})"


KERNELS: dict[str, Kernel] = {}  # every declared kernel by name; elementwise ones are made on demand and not listed


def drop_oldest(kept: dict[Any, Any]) -> None:
    """Drops what was put in first. Where another thread changes the dict meanwhile, the next call does it."""
    with suppress(RuntimeError, StopIteration):
        kept.pop(next(iter(kept)), None)


def _parse_tensors(name: str, text: str, access: str) -> tuple[Arg, ...]:
    if _TENSOR.sub("", text).strip():
        raise KernelError(f"[{name}] cannot read the signature near {_TENSOR.sub('', text).strip()!r}.")
    found = []
    for mark, arg, dtype, dims in _TENSOR.findall(text):
        parts = tuple(d.strip() for d in dims.split(",") if d.strip())
        found.append(Arg(arg, dtype or "F", parts, "update" if mark else access))
    return tuple(found)


def make_kernel(reference: Reference, signature: str, *, name: str, groups: str, block: int = 256,
                software_block: int = 0, static: str = "", vector: str = "", kinds: Mapping[str, str] | None = None,
                source: str = "", context: Mapping[str, Any] | None = None,
                texts: Mapping[str, str] | None = None) -> Kernel:
    """A Kernel from its signature. `block` is the workgroup size; `software_block`, if given, the least on CPU drivers
    (block_on; a kernel that gives it must be right for both). `groups` is an expression of dims, scalars, BLOCK, W and
    cdiv."""
    head, _, tail = signature.partition("|")
    left, arrow, right = head.partition("->")
    inputs = _parse_tensors(name, left, "read")
    outputs = _parse_tensors(name, right, "write") if arrow else ()
    pairs = (s.partition(":") for s in tail.replace(",", " ").split())
    scalars = tuple((n, _SCALAR_TYPES[t or "f32"]) for n, _, t in pairs)
    if len(inputs) + len(outputs) > MAX_TENSORS:
        raise KernelError(f"[{name}] has {len(inputs) + len(outputs)} tensors; WebGPU binds at most {MAX_TENSORS}.")
    made = Kernel(name, signature, reference, inputs, outputs, scalars, compile(groups, f"<{name}>", "eval"), block,
                  software_block or block, frozenset(static.split()), vector, kinds or {}, source or name,
                  context or {}, texts or {})
    unknown = made.static - set(made.dims) - set(dict(scalars))
    if unknown:
        raise KernelError(f"[{name}] static names {sorted(unknown)} are not in the signature.")
    return made


def kernel(signature: str, *, groups: str, block: int = 256, software_block: int = 0, static: str = "",
           vector: str = "", kinds: Mapping[str, str] | None = None, source: str = "", wgsl: str = "",
           cuda: str = "") -> Callable[[Reference], Kernel]:
    """Declares the decorated NumPy function as a kernel with sources `cuda/<name>.cu` and `shaders/<name>.wgsl`, or
    those of the kernel `source`, whose templates ask for `spec.kernel.name`.

    Outside the package, `wgsl` and `cuda` give the two bodies as text instead.
    """
    def declare(reference: Reference) -> Kernel:
        texts = {ending: text for ending, text in (("wgsl", wgsl), ("cu", cuda)) if text}
        made = make_kernel(reference, signature, name=reference.__name__, groups=groups, block=block,
                           software_block=software_block, static=static, vector=vector, kinds=kinds, source=source,
                           texts=texts)
        made.__doc__ = reference.__doc__
        if not texts:
            KERNELS[made.name] = made
        return made
    return declare
