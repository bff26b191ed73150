"""A cross entropy whose gradient the step takes makes it in the pass that reads the logits, in their place.

The gradient wants to know what the mean divides by and what gradient comes in. The first follows from the targets
alone; the second nearly always from constants, so that what makes it can run ahead.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..ops.cross_entropy import cross_entropy_count, cross_entropy_in_place
from .graph import Graph, is_kernel, reads_what_it_writes
from .norms import rename
from .recording import Item, Place

_ALL = 1 << 62  # bytes: a whole buffer


def fuse_losses(graph: Graph) -> None:
    for item in list(graph.items):
        if is_kernel(item, "cross_entropy_forward"):
            _join(graph, next(i for i, other in enumerate(graph.items) if other is item))


def _join(graph: Graph, index: int) -> None:
    """Forward and backward become one launch in the forward's place."""
    item = graph.items[index]
    logits, targets, loss, lse = item.places
    later = [at for at, _ in graph.uses(logits, index + 1)]
    if len(later) != 1 or not is_kernel(graph.items[later[0]], "cross_entropy_backward"):
        if any(is_kernel(graph.items[at], "cross_entropy_backward") for at in later):
            graph.note("loss", f"{item.name} ({item.where}) stays: its logits are used elsewhere too")
        return
    backward = graph.items[later[0]]
    dloss, scale, dlogits = backward.places[3:]
    total = _total(graph, scale, index, later[0])
    ahead = _ahead(graph, dloss, index, later[0])
    if total is None or ahead is None or backward.places[:3] != (logits, targets, lse) \
            or not _is_free(graph, item, backward, later[0]):
        graph.note("loss", f"{item.name} ({item.where}) stays: its gradient needs what comes after it")
        return
    assert item.spec is not None
    weight, new = _weight(graph, total)
    joined = graph.launch(cross_entropy_in_place, dict(item.spec.types), {**item.dims, "D": backward.dims["D"]},
                          [logits, targets, dloss, weight, loss], item.where)
    if reads_what_it_writes(joined):
        return
    gone = {index, later[0], *ahead}
    rest = [other for i, other in enumerate(graph.items[index:], index) if i not in gone]
    graph.items = [*graph.items[:index], *(graph.items[i] for i in ahead), *new, joined, *rest]
    rename(graph, {dlogits.number: logits})
    graph.note("loss", f"{item.name} ({item.where}) makes the gradient as it reads the logits", 1 - len(new),
               done=True)


def _total(graph: Graph, scale: Place, index: int, end: int) -> Item | None:
    """The launch between that makes what one row weighs."""
    writers = [graph.items[i] for i, access in graph.uses(scale, index, end) if access != "read"]
    return writers[0] if len(writers) == 1 and is_kernel(writers[0], "cross_entropy_total") else None


def _is_free(graph: Graph, item: Item, backward: Item, end: int) -> bool:
    """Whether nobody but the two sees the logits, lse and the gradient as they are in between."""
    logits, targets, _, lse = item.places
    dlogits, index = backward.places[-1], graph.items.index(item)
    return bool(item.dims["L"]) and all(graph.is_temporary(p.number) for p in (logits, lse, dlogits)) \
        and [at for at, _ in graph.uses(lse, index + 1)] == [end] and graph.untouched(targets, index, end) \
        and not dlogits.offset and graph.unseen(Place(dlogits.number, 0, _ALL), 0, end) \
        and dlogits.nbytes == logits.nbytes and item.spec.types == backward.spec.types  # type: ignore[union-attr]


def _weight(graph: Graph, total: Item) -> tuple[Place, list[Item]]:
    """Where a row's weight will be, and the launch that makes it, if one is needed."""
    assert total.spec is not None
    targets, scale = total.places[1], total.places[-1]
    letter: Any = total.spec.dtype(total.spec.kernel.args[-1])
    if not total.dims["mean"]:
        return graph.constant(np.ones(1, graph.backend.storage(letter))), []
    place = Place(graph.temporary(), 0, scale.nbytes)
    dims = {"N": total.dims["N"], "ignore_index": total.dims["ignore_index"]}
    return place, [graph.launch(cross_entropy_count, {"F": letter}, dims, [targets, place], total.where)]


def _ahead(graph: Graph, place: Place, index: int, end: int) -> list[int] | None:
    """The launches in [index, end) that make a stretch, in order, or None where they cannot run before `index`."""
    found: set[int] = set()
    for at, access in graph.uses(place, index, end):
        if access == "read":
            continue
        if access == "update" or at == index:
            return None
        for other, how in graph.items[at].accesses():
            if how != "read":
                if not graph.unseen(other, index, at):
                    return None
            elif (more := _ahead(graph, other, index, at)) is None:
                return None
            else:
                found.update(more)
        found.add(at)
    return sorted(found)
