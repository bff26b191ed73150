"""Chains and small trees of elementwise launches become one kernel, written for them in the backend's language."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ..dtypes import DType, bool_, float32, int32
from ..kernel import MAX_TENSORS
from ..ops.fused import Spread, Stage, fused_kernel
from .graph import Graph, is_kernel
from .recording import Item, Place

_NAME = re.compile(r"\b[xnv]\d+\b")
_WORD = re.compile(r"[A-Za-z_]\w*")
_MOST_STAGES = 24
_FLOATING_ALONE = {"max_", "min_", "sign_", "floor_div", "floor_mod"}  # the fused kernel has them for floats


@dataclass
class Part:
    """Elementwise work as stages of a kernel to be: what each name of theirs stands for."""

    size: int
    arrays: list[tuple[Place, Spread]] = field(default_factory=list)
    numbers: list[tuple[str, Any]] = field(default_factory=list)  # kind and value
    stages: list[Stage] = field(default_factory=list)
    drops: list[Mapping[str, Any]] = field(default_factory=list)  # offset, threshold and scale
    outputs: dict[int, Place] = field(default_factory=dict)       # of stages
    state: Place | None = None
    floating: DType | None = None

    @property
    def tensors(self) -> int:
        return len(self.arrays) + len(self.outputs) + (self.state is not None)


def fuse_elementwise(graph: Graph) -> None:
    """Joins each launch with the next one that reads its result, as long as one is found."""
    parts: dict[int, Part] = {}  # of fused items, by id
    made: list[Item] = []        # keeps the ids
    index = 0
    while index < len(graph.items):
        one = _part(graph, index, parts)
        found = _next(graph, index, one, parts) if one is not None else None
        if one is None or found is None:
            index += 1
            continue
        at, joined = found
        item = _launched(graph, joined, graph.items[at].where)
        parts[id(item)] = joined
        made.append(item)
        names = f"{graph.items[index].name} and {graph.items[at].name}"
        graph.note("elementwise", f"{names} ({item.where}) are one kernel", 1)
        graph.replace([index, at], {at: item})


def _next(graph: Graph, index: int, one: Part, parts: dict[int, Part]) -> tuple[int, Part] | None:
    """The launch that a part joins, and what they are together."""
    for place in one.outputs.values():
        for at, access in graph.uses(place, index + 1):
            two = _part(graph, at, parts) if access == "read" else None
            if two is None or not any(place == p and spread.dense for p, spread in two.arrays):
                break
            joined = _joined(graph, one, two, at) if graph.can_move(index, at) else None
            if joined is not None:
                return at, joined
            why = "something between them needs their order" if not graph.can_move(index, at) else \
                "together they have too many tensors, other dtypes, or a buffer that is read and written"
            graph.note("elementwise", f"{graph.items[index].name} ({graph.items[index].where}) stays apart from "
                                      f"{graph.items[at].name}: {why}")
            break
    return None


# ---- from launches to parts -----------------------------------------------------------------------------------------

def _part(graph: Graph, index: int, parts: dict[int, Part]) -> Part | None:
    """What a launch does, as a part; None where it is not elementwise."""
    item = graph.items[index]
    if id(item) in parts:
        return parts[id(item)]
    if item.spec is None:
        return None
    if item.spec.kernel.source == "elementwise":
        return _of_expression(item)
    if is_kernel(item, "dropout_forward") and item.dims["N"] % 4 == 0:
        x, state, out = item.places
        dtype = item.spec.dtype(item.spec.kernel.args[0])
        return Part(int(item.dims["N"]), [(x, Spread("F"))], [], [Stage("", "F", "x0", 0)], [item.dims], {0: out},
                    state, dtype)
    return None


def _letter(dtype: DType) -> str:
    return "F" if dtype.is_floating_point else {int32: "i32", bool_: "bool"}.get(dtype, "")


def _of_expression(item: Item) -> Part | None:
    assert item.spec is not None
    kernel, names, part = item.spec.kernel, {}, Part(int(item.dims["N"]))
    context: Any = kernel.context
    dtypes = [item.spec.dtype(arg) for arg in kernel.args]
    letters = [_letter(dtype) for dtype in dtypes]
    floats = {dtype for dtype in dtypes if dtype.is_floating_point}
    whole = "i32" in letters and _FLOATING_ALONE & set(_WORD.findall(context["expression"]))
    if not all(letters) or len(floats) > 1 or whole:
        return None
    arrays = [o for o in context["operands"] if not o.number]
    for operand, place, letter in zip(arrays, item.places, letters, strict=False):
        names[operand.name] = f"x{len(part.arrays)}"
        part.arrays.append((place, Spread(letter, operand.strides, context["sizes"] if operand.strides else (0,))))
    for operand in context["operands"]:
        if operand.number:
            names[operand.name] = f"n{len(part.numbers)}"
            part.numbers.append((operand.dtype, item.dims[operand.name]))
    text = _WORD.sub(lambda m: names.get(m.group(), m.group()), context["expression"])
    part.stages.append(Stage(text, letters[-1]))
    part.outputs[0] = item.places[-1]
    part.floating = next(iter(floats), None)
    return part


# ---- two parts as one -----------------------------------------------------------------------------------------------

def _joined(graph: Graph, one: Part, two: Part, at: int) -> Part | None:
    """Both parts' stages, where the second reads the first's results; None where that cannot be."""
    floats = {p.floating for p in (one, two) if p.floating is not None}
    states = {p.state for p in (one, two) if p.state is not None}
    if one.size != two.size or len(floats) > 1 or len(states) > 1 \
            or len(one.stages) + len(two.stages) > _MOST_STAGES:
        return None
    made = Part(one.size, list(one.arrays), one.numbers + two.numbers, list(one.stages), one.drops + two.drops,
                dict(one.outputs), next(iter(states), None), next(iter(floats), None))
    names = {f"n{k}": f"n{k + len(one.numbers)}" for k in range(len(two.numbers))}
    names |= {f"v{k}": f"v{k + len(one.stages)}" for k in range(len(two.stages))}
    results = {place: f"v{k}" for k, place in one.outputs.items()}
    for k, (place, spread) in enumerate(two.arrays):
        if spread.dense and place in results:
            names[f"x{k}"] = results[place]
            continue
        if (place, spread) not in made.arrays:
            made.arrays.append((place, spread))
        names[f"x{k}"] = f"x{made.arrays.index((place, spread))}"

    def renamed(text: str) -> str:
        return _NAME.sub(lambda m: names[m.group()], text)
    made.stages += [replace(s, expression=renamed(s.expression), source=renamed(s.source),
                            number=s.number + len(one.drops)) for s in two.stages]
    made.outputs |= {k + len(one.stages): place for k, place in two.outputs.items()}
    made.outputs = {k: place for k, place in made.outputs.items() if k >= len(one.stages) or _needed(graph, place, at)}
    wide = all(s.dense or not s.sizes[1:] or s.sizes[-1] % 4 == 0 for _, s in made.arrays)
    # WebGPU refuses to read and write one buffer; what `one` makes is not in memory yet where `two` reads a part of it
    written = {place.number for place in (*one.outputs.values(), *made.outputs.values())}
    mixed = any(place.number in written for place, _ in made.arrays)
    if made.tensors > MAX_TENSORS or (made.drops and not wide) or mixed:
        return None
    return made


def _needed(graph: Graph, place: Place, at: int) -> bool:
    """Whether anything but the launch `at` will read a result."""
    return not graph.is_temporary(place.number) or not graph.unseen(place, at + 1, len(graph.items))


def _launched(graph: Graph, part: Part, where: str) -> Item:
    kernel = fused_kernel(tuple(s for _, s in part.arrays), tuple(kind for kind, _ in part.numbers),
                          tuple(part.stages), tuple(part.outputs), part.floating or float32)
    dims: dict[str, Any] = {"N": part.size} | {f"n{k}": value for k, (_, value) in enumerate(part.numbers)}
    for number, drop in enumerate(part.drops):
        dims |= {f"d{number}_{name}": drop[name] for name in ("offset", "threshold", "scale")}
    size_of: Callable[[str], int] = lambda letter: graph.backend.storage(  # noqa: E731
        {"i32": int32, "bool": bool_}.get(letter) or part.floating).itemsize  # type: ignore[arg-type]
    dims |= {f"L{k}": place.nbytes // size_of(spread.type)
             for k, (place, spread) in enumerate(part.arrays) if not spread.dense}
    places = [place for place, _ in part.arrays] + ([part.state] if part.state else []) + list(part.outputs.values())
    types = {"F": part.floating} if part.floating is not None else {}
    return graph.launch(kernel, types, dims, places, where)
