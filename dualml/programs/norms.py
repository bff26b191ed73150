"""Norms take over what stands beside them: the addition of a residual, and dropout."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ..dtypes import DType, bfloat16, float16
from ..ops.norm_dropout import ROUNDINGS, dropout_layer_norm_forward, layer_norm_dropout_backward
from .graph import Graph, is_kernel, reads_what_it_writes
from .recording import Item, Place

FORWARD = ("layer_norm_forward", "rms_norm_forward")
BACKWARD = ("layer_norm_backward", "rms_norm_backward")
X, RESIDUAL = 0, 1               # places of a forward norm's inputs
H = {"layer_norm_forward": 4, "rms_norm_forward": 3}
DH = 2                          # and of a backward one's
DX = {"layer_norm_backward": 6, "rms_norm_backward": 5}
_ALL = 1 << 62                     # bytes: a whole buffer


def fuse_norms(graph: Graph) -> None:
    """Additions first: what they leave is what casts and dropout may join."""
    each(graph, _add_before)
    each(graph, _add_after)


def fuse_norm_dropouts(graph: Graph) -> None:
    """After the casts between the two, so that dropout in 16 bits is next to a norm."""
    _pair_statistics(graph)
    each(graph, _dropout_before)
    each(graph, _dropout_after)


def each(graph: Graph, rule: Any) -> None:
    """Tries a rule at every launch. It returns whether it rewrote something, which shortens the list."""
    index = 0
    while index < len(graph.items):
        if not rule(graph, index):
            index += 1


def _dense_add(item: Item) -> bool:
    """Whether an item adds two Arrays of the result's own shape and dtype."""
    return is_kernel(item, "add_forward") and len({p.nbytes for p in item.places}) == 1 and len(item.places) == 3 \
        and all(o.strides is None and not o.number for o in item.spec.kernel.context["operands"])  # type: ignore


def remade(graph: Graph, item: Item, places: list[Place], types: Mapping[str, DType] = {}, **dims: int) -> Item:
    """The same launch with other places, dtypes or dims."""
    assert item.spec is not None
    return graph.launch(item.spec.kernel, {**dict(item.spec.types), **types}, {**item.dims, **dims}, places, item.where)


def _dtype(item: Item) -> DType | None:
    """The dtype of all that an item reads and writes, if it is one."""
    found = {dtype for _, dtype in item.spec.types} if item.spec is not None else set()
    return found.pop() if len(found) == 1 else None


def rounds(graph: Graph, item: Item, other: Item, group: str = "norm") -> bool:
    """Whether what an item makes is rounded to 16 bits before another reads it; together they would not do that."""
    assert item.spec is not None
    if item.spec.dtype(item.spec.kernel.args[-1]) not in (float16, bfloat16):
        return False
    graph.note(group, f"{item.name} ({item.where}) stays by {other.name}: what goes between them is rounded to 16 bits")
    return True


def take_over(graph: Graph, gone: Sequence[int], at: int, made: Item, text: str) -> bool:
    """Puts one launch in the place of several, unless WebGPU would refuse it."""
    if reads_what_it_writes(made):
        graph.note("norm", f"{made.name} ({made.where}) stays as it is: it would read and write one buffer")
        return False
    graph.replace(gone, {at: made})
    graph.note("norm", text, len(gone) - 1)
    return True


def _next_use(graph: Graph, place: Place, after: int) -> int | None:
    return next((index for index, _ in graph.uses(place, after + 1)), None)


def _add_before(graph: Graph, index: int) -> bool:
    """s = a + b, out = norm(s) becomes out, s = norm(a + residual b)."""
    item = graph.items[index]
    if not _dense_add(item):
        return False
    total = item.places[2]
    at = _next_use(graph, total, index)
    if at is None or not is_kernel(graph.items[at], *FORWARD):
        return False
    norm = graph.items[at]
    if norm.places[X] != total or norm.dims["R"] or _dtype(norm) is not _dtype(item) or rounds(graph, item, norm):
        return False
    if not graph.can_move(index, at):
        graph.note("norm", f"add ({item.where}) stays: what it adds changes before {norm.name} ({norm.where})")
        return False
    places = list(norm.places)
    places[X], places[RESIDUAL], places[H[norm.name]] = item.places[0], item.places[1], total
    return take_over(graph, (index, at), at, remade(graph, norm, places, R=1),
                      f"{norm.name} ({norm.where}) adds its residual")


def _add_after(graph: Graph, index: int) -> bool:
    """dx = norm backward, s = dx + y becomes s = norm backward with dh = y."""
    norm = graph.items[index]
    if not is_kernel(norm, *BACKWARD) or norm.dims["R"]:
        return False
    out = DX[norm.name]
    dx = norm.places[out]
    at = _next_use(graph, dx, index)
    if at is None or not _dense_add(graph.items[at]) or not graph.is_temporary(dx.number) \
            or _dtype(norm) is not _dtype(graph.items[at]) or rounds(graph, graph.items[at], norm):
        return False
    add = graph.items[at]
    other = [p for p in add.places[:2] if p != dx]
    if len(other) != 1 or not graph.unseen(dx, at + 1, len(graph.items)) \
            or not graph.untouched(other[0], index, at) or not graph.unseen(add.places[2], index, at):
        return False
    places = list(norm.places)
    places[DH], places[out] = other[0], add.places[2]
    return take_over(graph, (index, at), index, remade(graph, norm, places, R=1),
                      f"{norm.name} ({norm.where}) adds the gradient that comes by the residual")


# ---- dropout --------------------------------------------------------------------------------------------------------

def _pair_statistics(graph: Graph) -> None:
    """Every layer norm's means and rstds lie side by side, as the fused kernels have them."""
    moved: dict[int, Place] = {}
    for item in graph.items:
        if is_kernel(item, "layer_norm_forward"):
            mean, rstd = item.places[-2:]
            if all(graph.is_temporary(p.number) and not p.offset for p in (mean, rstd)) \
                    and mean.nbytes and mean.nbytes % graph.backend.alignment == 0:
                both = graph.temporary()
                moved[mean.number] = Place(both, 0, mean.nbytes)
                moved[rstd.number] = Place(both, mean.nbytes, rstd.nbytes)
    rename(graph, moved)


def rename(graph: Graph, moved: dict[int, Place]) -> None:
    """Puts buffers at places in others."""
    def new(place: Place) -> Place:
        base = moved.get(place.number)
        return place if base is None else Place(base.number, base.offset + place.offset, place.nbytes)
    graph.items = [replace(item, places=tuple(map(new, item.places)))
                   if any(p.number in moved for p in item.places) else item for item in graph.items]


def _joined(mean: Place, rstd: Place) -> Place | None:
    if mean.number != rstd.number or mean.offset + mean.nbytes != rstd.offset:
        return None
    return Place(mean.number, mean.offset, mean.nbytes + rstd.nbytes)


def _fits(dropout: Item, norm: Item) -> bool:
    """Whether both work on the same shape, with four columns to a random counter."""
    return dropout.dims["N"] == norm.dims["N"] * norm.dims["C"] and norm.dims["C"] % 4 == 0


def _numbers(dropout: Item) -> dict[str, Any]:
    dtype = _dtype(dropout)
    return {name: dropout.dims[name] for name in ("offset", "threshold", "scale")} \
        | {"rounding": ROUNDINGS.get(dtype, 0) if dtype is not None else 0}


def _dropout_before(graph: Graph, index: int) -> bool:
    """d = dropout(x), h, out = norm(d + residual) becomes one launch."""
    item = graph.items[index]
    if not is_kernel(item, "dropout_forward"):
        return False
    x, state, dropped = item.places
    at = _next_use(graph, dropped, index)
    if at is None or not is_kernel(graph.items[at], "layer_norm_forward"):
        return False
    norm = graph.items[at]
    assert norm.spec is not None
    inputs, stats, types = list(norm.places[:4]), _joined(*norm.places[-2:]), dict(norm.spec.types)
    if inputs[RESIDUAL] == dropped and norm.dims["R"] and types["X"] is types["F"]:
        inputs[X], inputs[RESIDUAL] = inputs[RESIDUAL], inputs[X]
    alike = types["X"] is _dtype(item) and (types["X"] is types["F"] or norm.dims["R"])
    if inputs[X] != dropped or inputs.count(dropped) > 1 or stats is None or not alike or not _fits(item, norm) \
            or not graph.can_move(index, at):
        graph.note("norm", f"dropout ({item.where}) stays before {norm.name}: shape, alignment or order do not fit")
        return False
    if norm.dims["R"] and not (graph.is_temporary(dropped.number)
                               and graph.unseen(dropped, at + 1, len(graph.items))):
        graph.note("norm", f"dropout ({item.where}) stays before {norm.name}: its result is used elsewhere too")
        return False
    inputs[X] = x
    h = norm.places[4] if norm.dims["R"] else dropped
    made = graph.launch(dropout_layer_norm_forward, types, {**norm.dims, **_numbers(item)},
                        [*inputs, state, h, norm.places[5], stats], norm.where)
    return take_over(graph, (index, at), at, made, f"{norm.name} ({norm.where}) drops out what it reads")


def _dropout_after(graph: Graph, index: int) -> bool:
    """dx = norm backward, d = dropout(dx) becomes one launch, and so does d = dropout(16 bits of dx)."""
    norm = graph.items[index]
    if not is_kernel(norm, "layer_norm_backward"):
        return False
    later = _dropout_of(graph, norm.places[-2], index)
    if not later:
        return False
    item = graph.items[later[-1]]
    _, state, dropped = item.places
    if not _fits(item, norm) or not graph.untouched(state, index, later[-1]):
        graph.note("norm", f"dropout ({item.where}) stays after {norm.name}: shape or order do not fit")
        return False
    return beside_dx(graph, index, later, state, dropped, {"DROP": 1, **_numbers(item)}, "drops out what it makes")


def beside_dx(graph: Graph, index: int, later: Sequence[int], state: Place, target: Place, numbers: Mapping[str, Any],
              done: str) -> bool:
    """A backward LayerNorm makes what the launches `later` make of its dx, and puts dx in the place of dh."""
    norm, item, end = graph.items[index], graph.items[later[-1]], later[-1]
    assert norm.spec is not None
    assert item.spec is not None
    dx, dh, stats = norm.places[-2], norm.places[DH], _joined(*norm.places[4:6])
    if stats is None or not graph.is_temporary(dx.number) or dx.offset or not graph.untouched(dx, index + 1, end) \
            or not graph.unseen(target, index, end):
        graph.note("norm", f"{item.name} ({item.where}) stays after {norm.name}: alignment or order do not fit")
        return False
    if norm.dims["R"] and not (graph.is_temporary(dh.number) and graph.unseen(
            Place(dh.number, 0, _ALL), index + 1, len(graph.items))):
        graph.note("norm", f"{item.name} ({item.where}) stays after {norm.name}: the gradient it adds is used again")
        return False
    place = dh if norm.dims["R"] else dx
    types = {**dict(norm.spec.types), "Y": item.spec.dtype(item.spec.kernel.args[-1])}
    places = [*norm.places[:2], norm.places[3], stats, state, place, target, norm.places[-1]]
    made = graph.launch(layer_norm_dropout_backward, types, {**norm.dims, **numbers}, places, norm.where)
    if not take_over(graph, (index, *later), index, made, f"{norm.name} ({norm.where}) {done}"):
        return False
    rename(graph, {dx.number: place} if place != dx else {})
    return True


def _dropout_of(graph: Graph, dx: Place, index: int) -> list[int]:
    """The dropout of what a backward norm makes, after the cast before it if there is one."""
    for at, _ in graph.uses(dx, index + 1):
        item = graph.items[at]
        if is_kernel(item, "dropout_forward") and item.places[0] == dx:
            return [at]
        if is_kernel(item, "cast_forward") and item.places[0] == dx and item.dims["low"] == item.dims["high"]:
            short = item.places[1]
            uses = [i for i, _ in graph.uses(short, at + 1)]
            if len(uses) == 1 and is_kernel(graph.items[uses[0]], "dropout_forward") \
                    and graph.items[uses[0]].places[0] == short and graph.is_temporary(short.number):
                return [at, uses[0]]
    return []
