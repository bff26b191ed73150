"""The casts of mixed precision, of weights to 16 bits and of their gradients back: one launch for many neighbours.

Weights and gradients lie side by side in the optimizer's memory. So their 16-bit forms get one buffer with the same
layout, and one cast goes over all of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ..ops.cast import cast_forward
from .graph import Graph, is_kernel, reads_what_it_writes
from .norms import rename
from .recording import Item, Place

_ALL = 1 << 62
_MOST_BYTES = 96 << 20  # of a launch: browsers bind no more than 128 MiB
_MOST_WASTE = 1.25      # bytes that are cast, per byte that is wanted
_LITTLE = 1 << 20       # bytes that take no longer than any launch


@dataclass(frozen=True)
class Cast:
    """A launch, the place that lies among others in a buffer that lives on, and the temporary that belongs to it."""

    index: int
    item: Item
    lasting: Place
    temporary: Place

    @property
    def types(self) -> object:
        return self.item.spec and self.item.spec.types


def merge_casts(graph: Graph) -> None:
    for of_weights in (True, False):
        for group in _groups(graph, of_weights):
            if len(group) > 1:
                (_cast_weights if of_weights else _cast_gradients)(graph, group)


def _groups(graph: Graph, of_weights: bool) -> Iterator[list[Cast]]:
    """Casts of neighbours. Between weights there may be something; between gradients not, as it would be written to.
    The list is made anew for each group, since the one before has changed the graph."""
    seen: set[tuple[int, int]] = set()
    while True:
        casts = [c for c in _casts(graph, of_weights) if (c.lasting.number, c.lasting.offset) not in seen]
        if not casts:
            return
        group = [casts[0]]
        for other in casts[1:]:
            begin, end = group[0].lasting, group[-1].lasting.offset + group[-1].lasting.nbytes
            to_here = other.lasting.offset + other.lasting.nbytes - begin.offset
            wanted = sum(c.lasting.nbytes for c in group) + other.lasting.nbytes
            near = to_here <= max(_MOST_WASTE * wanted, _LITTLE) if of_weights else other.lasting.offset == end
            if other.lasting.number == begin.number and other.types == group[0].types and near \
                    and end <= other.lasting.offset and to_here <= _MOST_BYTES \
                    and _offset(group[0], other) % graph.backend.alignment == 0:
                group.append(other)
        seen.update((c.lasting.number, c.lasting.offset) for c in group)
        yield group


def _casts(graph: Graph, of_weights: bool) -> list[Cast]:
    """All casts between floating dtypes of a lasting place and a temporary, by the former's place."""
    found, ends = [], dict[int, int]()
    for place in (p for item in graph.items for p in item.places):
        ends[place.number] = max(ends.get(place.number, 0), place.offset + place.nbytes)
    for index, item in enumerate(graph.items):
        if not is_kernel(item, "cast_forward") or item.dims["low"] != item.dims["high"] or not item.places[0].nbytes:
            continue
        lasting, temporary = item.places if of_weights else item.places[::-1]
        if not graph.is_temporary(lasting.number) and graph.is_temporary(temporary.number) \
                and not temporary.offset and temporary.nbytes == ends[temporary.number]:
            found.append(Cast(index, item, lasting, temporary))
    return sorted(found, key=lambda c: (c.lasting.number, c.lasting.offset, c.index))


def _offset(first: Cast, other: Cast) -> int:
    """Where the temporary of a cast lies in the buffer of all."""
    return (other.lasting.offset - first.lasting.offset) * other.temporary.nbytes // other.lasting.nbytes


def _cast_weights(graph: Graph, group: Sequence[Cast]) -> None:
    """One cast, where the first of them stands."""
    first, last = min(c.index for c in group), max(c.index for c in group)
    whole = _whole(group)
    once = all([at for at, how in graph.uses(Place(c.temporary.number, 0, _ALL)) if how != "read"] == [c.index]
               and graph.unseen(c.temporary, 0, c.index) for c in group)
    if once and graph.untouched(whole, first, last):
        _join(graph, group, first, whole)


def _cast_gradients(graph: Graph, group: Sequence[Cast]) -> None:
    """One cast, where the last of them stands."""
    last, mine = max(c.index for c in group), frozenset(c.index for c in group)
    if all(graph.untouched(c.temporary, c.index + 1, last) and graph.unseen(c.lasting, c.index + 1, last, mine)
           for c in group):
        _join(graph, group, last, _whole(group))


def _whole(group: Sequence[Cast]) -> Place:
    begin, end = group[0].lasting, group[-1].lasting
    return Place(begin.number, begin.offset, end.offset + end.nbytes - begin.offset)


def _join(graph: Graph, group: Sequence[Cast], at: int, whole: Place) -> None:
    item, before = group[0].item, graph.items
    assert item.spec is not None
    count = whole.nbytes * int(item.dims["N"]) // group[0].lasting.nbytes
    both = graph.temporary()
    beside = Place(both, 0, _offset(group[0], group[-1]) + group[-1].temporary.nbytes)
    places = [whole, beside] if item.places[0] == group[0].lasting else [beside, whole]
    made = graph.launch(cast_forward, dict(item.spec.types), {**item.dims, "N": count}, places, item.where)
    refused = sum(map(reads_what_it_writes, before))
    graph.replace([c.index for c in group], {at: made})
    rename(graph, {c.temporary.number: Place(both, _offset(group[0], c), c.temporary.nbytes) for c in group})
    if sum(map(reads_what_it_writes, graph.items)) > refused:
        graph.items = before
        graph.note("casts", f"{len(group)} casts ({item.where}) stay: a launch would read and write one buffer")
        return
    graph.note("casts", f"{len(group)} casts ({item.where}) are one launch", len(group) - 1)
