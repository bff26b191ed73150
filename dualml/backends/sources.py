"""From a Spec to the text of its GPU program: a preamble with constants, Params and bindings, then the kernel's file.

The files live in top-level `shaders/` and `cuda/` and hold the body alone. Both preambles are written here, side by
side, so that the two can be compared line by line. All files are Jinja2 templates, which matters only where a body
repeats itself or a template is shared (elementwise); constants are visible to the template by their own names.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import jinja2
import numpy as np

from ..dtypes import DType, float16, float32, int32
from ..errors import KernelError
from ..kernel import DeviceInfo, Scalar, Spec


@cache
def folder(name: str) -> Path:
    """`shaders` or `cuda`: inside an installed wheel, or beside the package in a checkout."""
    package = Path(__file__).resolve().parents[1]
    for place in (package / "kernels" / name, package.parent / name):
        if place.is_dir():
            return place
    raise KernelError(f"[sources] the folder {name}/ of kernel sources is missing; reinstall dualml.")


@cache
def _templates(name: str) -> jinja2.Environment:
    return jinja2.Environment(loader=jinja2.FileSystemLoader(folder(name)), undefined=jinja2.StrictUndefined,
                              trim_blocks=True, lstrip_blocks=True, autoescape=False)


def _render(spec: Spec, device: DeviceInfo, kind: str, ending: str) -> str:
    context = dict(spec.constants) | dict(spec.kernel.context)
    context |= {"W": spec.width, "BLOCK": spec.block, "vectors": spec.vectors,
                "subgroup_size": device.subgroup_size, "spec": spec}
    text = spec.kernel.texts.get(ending)
    try:
        if text is not None:
            return _templates(kind).from_string(text).render(context)
        if spec.kernel.texts:
            raise KernelError(f"[{spec.kernel.name}] was declared without a {kind} body.")
        return _templates(kind).get_template(f"{spec.stem}.{ending}").render(context)
    except jinja2.TemplateNotFound as missing:
        raise KernelError(f"[{spec.kernel.name}] {kind}/{missing.name} does not exist.") from None


def _literal(value: Scalar, dtype: DType) -> str:
    if dtype.kind == "i":
        return f"{int(value)}" if dtype is int32 else f"{int(value)}u"
    if not np.isfinite(value):
        raise KernelError(f"a constant of a kernel must be finite, got {value}.")
    return f"{float(np.float32(value))!r}f"


def _constants(spec: Spec) -> list[tuple[str, DType, str]]:
    declared = dict(spec.kernel.scalars)
    from ..dtypes import uint32
    rows = [(n, declared.get(n, uint32), v) for n, v in spec.constants]
    rows += [("BLOCK", uint32, spec.block), ("W", uint32, spec.width)]
    return [(n, t, _literal(v, t)) for n, t, v in rows]


def wgsl_source(spec: Spec, device: DeviceInfo) -> str:
    """The WGSL module of a Spec; its entry point is the kernel's name."""
    body = _render(spec, device, "shaders", "wgsl")
    used = {spec.dtype(a) for a in spec.kernel.args} | {t for _, t in spec.types}
    lines = ["enable f16;"] if float16 in used else []
    lines += [f"alias {letter} = {dtype.wgsl};" for letter, dtype in spec.types]
    vector = "vec4<{}>" if spec.width == 4 else "{}"
    lines += [f"alias vecf = {vector.format('f32')};"]
    lines += [f"alias vec{letter} = {vector.format(letter)};" for letter, _ in spec.types]
    lines += [f"const {n}: {t.wgsl} = {text};" for n, t, text in _constants(spec)]
    lines += ["struct Params { " + ", ".join(f"{n}: {t.wgsl}" for n, t in spec.kernel.params) + " }"]
    for index, arg in enumerate(spec.kernel.args):
        access = "read" if arg.access == "read" else "read_write"
        element = f"vec4<{spec.dtype(arg).wgsl}>" if spec.vectorized(arg) else spec.dtype(arg).wgsl
        lines += [f"@group(0) @binding({index}) var<storage, {access}> {arg.name}: array<{element}>;"]
    lines += [f"@group(0) @binding({len(spec.kernel.args)}) var<uniform> p: Params;"]
    return "\n".join(lines) + "\n" + body


def cuda_source(spec: Spec, device: DeviceInfo) -> str:
    """The CUDA C++ unit of a Spec; its kernel is `extern "C"` and has the kernel's name."""
    body = _render(spec, device, "cuda", "cu")
    lines = ['#include "lib/common.cuh"']
    lines += [f"using {letter} = {dtype.cuda};" for letter, dtype in spec.types]
    lines += [f"constexpr {'float' if t is float32 else t.cuda} {n} = {text};" for n, t, text in _constants(spec)]
    lines += ["struct Params { " + " ".join(f"{t.cuda} {n};" for n, t in spec.kernel.params) + " };"]
    args = [f"{'const ' if a.access == 'read' else ''}{spec.dtype(a).cuda}* __restrict__ {a.name}"
            for a in spec.kernel.args]
    lines += [f'#define KERNEL extern "C" __global__ void __launch_bounds__({spec.block} AT_ONCE) '
              f'{spec.kernel.name}({", ".join([*args, "const Params p"])})',
              f'#line 1 "cuda/{spec.stem}.cu"']
    return "\n".join(lines) + "\n" + body
