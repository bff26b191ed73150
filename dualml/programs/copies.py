"""Work that a step does twice: equal launches are done once, copies that nobody changes are not made."""

from __future__ import annotations

from dataclasses import replace

from ..backends.base import Binding
from ..runtime import Launch, launch
from .graph import Graph, is_kernel
from .recording import Item, Place

_COPIES = ("clone_forward", "copy")


def share_equal(graph: Graph) -> None:
    """The same kernel on the same inputs gives the same: the second one's readers read the first one's result."""
    seen: dict[tuple[object, ...], int] = {}
    index = 0
    while index < len(graph.items):
        item = graph.items[index]
        key = _pure(item)
        first = seen.get(key) if key is not None else None
        if key is not None and first is not None and _share(graph, first, index):
            graph.note("equal", f"{item.name} ({item.where}) is done once", 1)
            continue
        if key is not None:
            seen[key] = index
        index += 1


def _pure(item: Item) -> tuple[object, ...] | None:
    """What a launch's result depends on; None where it updates something in place."""
    if item.spec is None or item.spec.kernel.updated:
        return None
    return item.spec, item.params, item.groups, item.places[:len(item.spec.kernel.inputs)]


def _share(graph: Graph, first: int, second: int) -> bool:
    one, two = graph.items[first], graph.items[second]
    assert one.spec is not None
    count = len(one.spec.kernel.inputs)
    if not all(graph.untouched(place, first + 1, second) for place in one.places):
        return False
    pairs = list(zip(one.places[count:], two.places[count:], strict=True))
    if not all(_may_stand_for(graph, new, old, second) for new, old in pairs):
        return False
    for new, old in pairs:
        _rename(graph, old, new)
    del graph.items[second]
    return True


def _may_stand_for(graph: Graph, new: Place, old: Place, since: int) -> bool:
    """Whether readers of `old` from a launch on may read `new` instead: neither is written to again, and nothing
    outside sees old. A launch may not read a buffer and write to it (WebGPU's rule)."""
    if any(access == "read" and any(p.number == new.number for p, how in graph.items[index].accesses() if how != "read")
           for index, access in graph.uses(old, since + 1)):
        return False
    whole, end = Place(old.number, 0, 1 << 62), len(graph.items)
    return (graph.is_temporary(old.number) and old.offset == 0 and graph.unseen(whole, 0, since)
            and graph.untouched(whole, since + 1, end) and graph.untouched(new, since + 1, end))


def _rename(graph: Graph, old: Place, new: Place) -> None:
    """Every reader of the buffer `old` reads `new`."""
    def moved(place: Place) -> Place:
        return Place(new.number, new.offset + place.offset, place.nbytes) if place.number == old.number else place
    graph.items = [replace(item, places=tuple(map(moved, item.places)))
                   if any(p.number == old.number for p in item.places) else item for item in graph.items]


def compute_once(graph: Graph) -> None:
    """What a launch without inputs makes, such as a gradient's first 1, stays as it is from replay to replay."""
    for index in reversed(range(len(graph.items))):
        item = graph.items[index]
        if item.spec is None or item.spec.kernel.inputs or any(
                not graph.is_temporary(p.number) or not graph.untouched(Place(p.number, 0, 1 << 62), 0,
                                                                        len(graph.items), frozenset({index}))
                for p in item.places):
            continue
        buffers = [graph.backend.alloc(place.nbytes) for place in item.places]
        bindings = [Binding(buffer, 0, place.nbytes) for buffer, place in zip(buffers, item.places, strict=True)]
        launch(Launch(graph.backend, item.spec, item.program, bindings, item.params, item.groups, item.dims))
        del graph.items[index]
        for place, buffer in zip(item.places, buffers, strict=True):
            _rename(graph, place, graph.keep(buffer, place.nbytes))
        graph.note("once", f"{item.name} ({item.where}) runs when the step is captured", 1)


def drop_copies(graph: Graph) -> None:
    """A copy in a buffer that nobody changes, of one that nobody changes after it, is not needed."""
    index = 0
    while index < len(graph.items):
        item = graph.items[index]
        if is_kernel(item, *_COPIES) or item.spec is None:
            source, target = item.places
            if source.nbytes == target.nbytes and source.offset % graph.backend.alignment == 0 \
                    and _may_stand_for(graph, source, target, index):
                del graph.items[index]
                _rename(graph, target, source)
                graph.note("copy", f"{item.name} ({item.where}) is not needed", 1)
                continue
            if _write_through(graph, index, source, target):
                graph.note("copy", f"{item.name} ({item.where}): what it copies is made in its place", 1)
                continue
        index += 1


def _write_through(graph: Graph, index: int, source: Place, target: Place) -> bool:
    """Lets the launch that makes what a copy reads, and nothing else does, write it where the copy would."""
    uses = list(graph.uses(Place(source.number, 0, 1 << 62)))
    if len(uses) != 2 or uses[0][1] != "write" or not graph.is_temporary(source.number) \
            or source.nbytes != target.nbytes:
        return False
    at = uses[0][0]
    maker = graph.items[at]
    if source not in maker.places or any(p.number == target.number for p in maker.places) \
            or not graph.unseen(target, at, index):
        return False
    places = tuple(target if p == source else p for p in maker.places)
    graph.replace([at, index], {at: replace(maker, places=places)})
    return True
