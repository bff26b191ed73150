"""Norms take over what stands beside them: the addition of a residual, and dropout."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ..ops.norm_dropout import dropout_layer_norm_forward, layer_norm_dropout_backward
from .graph import Graph, is_kernel, reads_what_it_writes
from .recording import Item, Place

_FORWARD = ("layer_norm_forward", "rms_norm_forward")
_BACKWARD = ("layer_norm_backward", "rms_norm_backward")
_X, _RESIDUAL = 0, 1               # places of a forward norm's inputs
_H = {"layer_norm_forward": 4, "rms_norm_forward": 3}
_DH = 2                            # and of a backward one's


def fuse_norms(graph: Graph) -> None:
    """Additions first: what they leave is what dropout may join."""
    _each(graph, _add_before)
    _each(graph, _add_after)
    _pair_statistics(graph)
    _each(graph, _dropout_before)
    _each(graph, _dropout_after)


def _each(graph: Graph, rule: Any) -> None:
    """Tries a rule at every launch. It returns whether it rewrote something, which shortens the list."""
    index = 0
    while index < len(graph.items):
        if not rule(graph, index):
            index += 1


def _dense_add(item: Item) -> bool:
    """Whether an item adds two Arrays of the result's own shape and dtype."""
    return is_kernel(item, "add_forward") and len({p.nbytes for p in item.places}) == 1 and len(item.places) == 3 \
        and all(o.strides is None and not o.number for o in item.spec.kernel.context["operands"])  # type: ignore


def _remade(graph: Graph, item: Item, places: list[Place], **dims: int) -> Item:
    assert item.spec is not None
    return graph.launch(item.spec.kernel, dict(item.spec.types), {**item.dims, **dims}, places, item.where)


def _take_over(graph: Graph, pair: tuple[int, int], at: int, made: Item, text: str) -> bool:
    """Puts one launch in the place of two, unless WebGPU would refuse it."""
    if reads_what_it_writes(made):
        graph.note("norm", f"{made.name} ({made.where}) stays as it is: it would read and write one buffer")
        return False
    graph.replace(pair, {at: made})
    graph.note("norm", text, 1)
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
    if at is None or not is_kernel(graph.items[at], *_FORWARD):
        return False
    norm = graph.items[at]
    if norm.places[_X] != total or norm.dims["R"] or norm.spec.types != item.spec.types:  # type: ignore[union-attr]
        return False
    if not graph.can_move(index, at):
        graph.note("norm", f"add ({item.where}) stays: what it adds changes before {norm.name} ({norm.where})")
        return False
    places = list(norm.places)
    places[_X], places[_RESIDUAL], places[_H[norm.name]] = item.places[0], item.places[1], total
    return _take_over(graph, (index, at), at, _remade(graph, norm, places, R=1),
                      f"{norm.name} ({norm.where}) adds its residual")


def _add_after(graph: Graph, index: int) -> bool:
    """dx = norm backward, s = dx + y becomes s = norm backward with dh = y."""
    norm = graph.items[index]
    if not is_kernel(norm, *_BACKWARD) or norm.dims["R"]:
        return False
    dx = norm.places[-2]
    at = _next_use(graph, dx, index)
    if at is None or not _dense_add(graph.items[at]) or not graph.is_temporary(dx.number) \
            or norm.spec.types != graph.items[at].spec.types:  # type: ignore[union-attr]
        return False
    add = graph.items[at]
    other = [p for p in add.places[:2] if p != dx]
    if len(other) != 1 or not graph.unseen(dx, at + 1, len(graph.items)) \
            or not graph.untouched(other[0], index, at) or not graph.unseen(add.places[2], index, at):
        return False
    places = list(norm.places)
    places[_DH], places[-2] = other[0], add.places[2]
    return _take_over(graph, (index, at), index, _remade(graph, norm, places, R=1),
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
    return dropout.dims["N"] == norm.dims["N"] * norm.dims["C"] and norm.dims["C"] % 4 == 0 \
        and dropout.spec.types == norm.spec.types  # type: ignore[union-attr]


def _numbers(dropout: Item) -> dict[str, Any]:
    return {name: dropout.dims[name] for name in ("offset", "threshold", "scale")}


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
    inputs, stats = list(norm.places[:4]), _joined(*norm.places[-2:])
    if inputs[_RESIDUAL] == dropped and norm.dims["R"]:
        inputs[_X], inputs[_RESIDUAL] = inputs[_RESIDUAL], inputs[_X]
    if inputs[_X] != dropped or inputs.count(dropped) > 1 or stats is None or not _fits(item, norm) \
            or not graph.can_move(index, at):
        graph.note("norm", f"dropout ({item.where}) stays before {norm.name}: shape, alignment or order do not fit")
        return False
    if norm.dims["R"] and not (graph.is_temporary(dropped.number)
                               and graph.unseen(dropped, at + 1, len(graph.items))):
        graph.note("norm", f"dropout ({item.where}) stays before {norm.name}: its result is used elsewhere too")
        return False
    inputs[_X] = x
    h = norm.places[4] if norm.dims["R"] else dropped
    made = graph.launch(dropout_layer_norm_forward, dict(norm.spec.types), {**norm.dims, **_numbers(item)},  # type: ignore
                        [*inputs, state, h, norm.places[5], stats], norm.where)
    return _take_over(graph, (index, at), at, made, f"{norm.name} ({norm.where}) drops out what it reads")


def _dropout_after(graph: Graph, index: int) -> bool:
    """dx = norm backward, d = dropout(dx) becomes one launch."""
    norm = graph.items[index]
    if not is_kernel(norm, "layer_norm_backward"):
        return False
    dx, stats = norm.places[-2], _joined(*norm.places[4:6])
    at = next((i for i, _ in graph.uses(dx, index + 1) if is_kernel(graph.items[i], "dropout_forward")), None)
    if at is None:
        return False
    item = graph.items[at]
    source, state, dropped = item.places
    if source != dx or stats is None or not _fits(item, norm) or dx.nbytes % graph.backend.alignment \
            or not all(graph.is_temporary(p.number) and not p.offset for p in (dx, dropped)) \
            or not graph.untouched(dx, index + 1, at) or not graph.unseen(dropped, index, at):
        graph.note("norm", f"dropout ({item.where}) stays after {norm.name}: shape, alignment or order do not fit")
        return False
    both = graph.temporary()
    places = [*norm.places[:4], stats, state, Place(both, 0, 2 * dx.nbytes), norm.places[-1]]
    made = graph.launch(layer_norm_dropout_backward, dict(norm.spec.types), {**norm.dims, **_numbers(item)},  # type: ignore
                        places, norm.where)
    if not _take_over(graph, (index, at), index, made, f"{norm.name} ({norm.where}) drops out what it makes"):
        return False
    rename(graph, {dx.number: Place(both, 0, dx.nbytes), dropped.number: Place(both, dx.nbytes, dropped.nbytes)})
    return True
