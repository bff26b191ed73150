"""The many small sums of a training step - gradients of biases and of norms' weights - in a few launches.

A sum runs in pieces first, whose results a second launch adds up. First steps of up to six tensors share a launch; they
wait for one another, which keeps their tensors alive a little longer. Last steps are needed only where all gradients
are, so that one launch does them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..ops.sum_jobs import SOURCES, sum_jobs
from .graph import Graph, is_kernel
from .norms import rename
from .recording import Item, Place

_MOST_SUMS = 256  # in one launch


@dataclass(frozen=True)
class Job:
    """Sums over columns: `rows` rows of `width` elements, `stride` apart, from `start` elements into a source."""

    source: Place
    start: int
    rows: int
    width: int
    stride: int
    lanes: int
    pieces: int
    out: Place


def merge_sums(graph: Graph) -> None:
    """Last steps, then the first steps that they wait for, then sums that need one step only."""
    for target in _targets(graph):
        pieces = _merge_last(graph, target)
        if pieces is not None:
            _merge_first(graph, pieces)
        _merge_first(graph, target)


def _targets(graph: Graph) -> list[int]:
    """Buffers that several sums write to, such as an optimizer's gradients."""
    counts = Counter(jobs[0].out.number for item in graph.items if (jobs := _jobs(item)) and jobs[0].pieces == 1)
    return [number for number, count in counts.items() if count > 1]


def _jobs(item: Item) -> list[Job]:
    """What an item does, as jobs; none if it is no such sum."""
    dims: dict[str, Any] = dict(item.dims)
    if is_kernel(item, "sum_partials"):
        partial, *outs = item.places
        return [Job(partial, index * dims["C"], dims["S"], dims["C"], dims["P"] * dims["C"], 8, 1, out)
                for index, (out, wanted) in enumerate(zip(outs, (dims["A"], dims["B"]), strict=True)) if wanted]
    if is_kernel(item, "sum_columns") and dims["N"] == 1 and dims["scale"] == 1:
        return [Job(item.places[0], 0, dims["K"], dims["I"], dims["I"], dims["L"], dims["S"], item.places[1])]
    return []


def _even(graph: Graph, jobs: Sequence[Job]) -> bool:
    """Whether all is in vectors of four float32 results."""
    float32 = all(j.out.nbytes == 4 * j.width * j.pieces for j in jobs)
    return bool(jobs) and float32 and all(
        n % 4 == 0 for j in jobs for n in (j.start, j.width, j.stride)) and graph.backend.alignment % 16 == 0


def _merge_last(graph: Graph, target: int) -> int | None:
    """One launch for the last steps that write to a buffer. Returns the number of the buffer with the pieces."""
    chosen: dict[int, list[Job]] = {}
    for index, item in enumerate(graph.items):
        jobs = _jobs(item)
        if _even(graph, jobs) and all(j.pieces == 1 and j.out.number == target for j in jobs) \
                and _is_last(graph, index, jobs):
            chosen[index] = jobs
    at = min((_first_use(graph, i, jobs) for i, jobs in chosen.items()), default=0) - 1
    chosen = {i: jobs for i, jobs in list(chosen.items())[:_MOST_SUMS] if i <= at}
    if len(chosen) < 2:
        return None
    others = _others(graph, target, chosen, at)
    pieces = graph.temporary()
    moved, size = {}, 0
    for jobs in chosen.values():
        source = jobs[0].source
        moved[source.number] = Place(pieces, size, source.nbytes)
        size += -(-source.nbytes // graph.backend.alignment) * graph.backend.alignment
    last = max({**chosen, **others})
    where = graph.items[last].where
    whole = Place(pieces, 0, size)
    everything = [replace(j, source=whole, start=j.start + moved[j.source.number].offset // 4)
                  for jobs in chosen.values() for j in jobs]
    made = _launch(graph, everything + [j for jobs in others.values() for j in jobs], where, graph.items[min(chosen)])
    graph.replace([*chosen, *others], {last: made})
    rename(graph, moved)
    count = len(chosen) + len(others)
    graph.note("sums", f"{count} last steps of sums ({where}) are one launch", count - 1)
    return pieces


def _others(graph: Graph, target: int, chosen: Mapping[int, list[Job]], at: int) -> dict[int, list[Job]]:
    """Sums of one step to the same buffer that can run after the launch `at` as well: they bring their own sources."""
    found: dict[int, list[Job]] = {}
    dtype = graph_type(graph.items[min(chosen)], 0)
    for index, item in enumerate(graph.items[:at + 1]):
        jobs = _jobs(item)
        if index not in chosen and _even(graph, jobs) and graph_type(item, 0) is dtype \
                and all(j.pieces == 1 and j.out.number == target != j.source.number for j in jobs) \
                and graph.can_move(index, at + 1):
            found[index] = jobs
    return dict(list(found.items())[:SOURCES - 1])


def _is_last(graph: Graph, index: int, jobs: Sequence[Job]) -> bool:
    """Whether a sum adds up pieces that one launch has made for it alone."""
    source = jobs[0].source
    uses = list(graph.uses(Place(source.number, 0, 1 << 62)))
    return graph.is_temporary(source.number) and not source.offset and len(uses) == 2 and uses[1][0] == index \
        and uses[0][1] == "write"


def _first_use(graph: Graph, index: int, jobs: Sequence[Job]) -> int:
    """The launch before which a sum must have run."""
    return min(next((i for i, _ in graph.uses(j.out, index + 1)), len(graph.items)) for j in jobs)


def _read(item: Item) -> set[int]:
    return {place.number for place, access in item.accesses() if access == "read"}


def _merge_first(graph: Graph, target: int) -> None:
    """Launches that write their sums to one buffer, up to six together, where the last of them stands."""
    waiting: list[int] = []
    for index, item in enumerate(graph.items):
        jobs = _jobs(item)
        if not _even(graph, jobs) or any(j.out.number != target for j in jobs) or target in _read(item):
            continue
        while waiting and (len(waiting) == SOURCES or not all(graph.can_move(w, index) for w in waiting)
                           or item.spec.types != graph.items[waiting[0]].spec.types):  # type: ignore[union-attr]
            _join(graph, waiting)
            waiting = []
        waiting.append(index)
    _join(graph, waiting)
    graph.items = [item for item in graph.items if item is not _GONE]


_GONE = Item((), "")  # keeps places in the list until all groups are made


def _join(graph: Graph, members: Sequence[int]) -> None:
    if len(members) < 2:
        return
    last = graph.items[members[-1]]
    jobs = [job for index in members for job in _jobs(graph.items[index])]
    made = _launch(graph, jobs, last.where, last)
    for index in members[:-1]:
        graph.items[index] = _GONE
    graph.items[members[-1]] = made
    graph.note("sums", f"{len(members)} sums ({last.where}) are one launch", len(members) - 1)


def _launch(graph: Graph, jobs: Sequence[Job], where: str, like: Item) -> Item:
    """A launch for all jobs, whose results lie in one buffer."""
    assert like.spec is not None
    sources = list(dict.fromkeys(j.source for j in jobs))
    begin = min(j.out.offset for j in jobs)
    target = Place(jobs[0].out.number, begin, max(j.out.offset + j.out.nbytes for j in jobs) - begin)
    block = sum_jobs.block_on(graph.backend.device)
    rows, groups = [], 0
    for j in jobs:
        rows.append((groups, sources.index(j.source), j.start // 4, j.rows, j.width // 4, j.stride // 4, j.lanes,
                     j.pieces, (j.out.offset - begin) // 16))
        groups += -(-j.width // 4 // min(j.lanes, block)) * j.pieces
    table = graph.constant(np.array(rows, np.uint32))
    input_type = graph_type(like, 0)
    itemsize = graph.backend.storage(input_type).itemsize
    six = [*sources, *[sources[0]] * (SOURCES - len(sources))]
    dims = {f"L{k}": place.nbytes // itemsize for k, place in enumerate(six)}
    dims |= {"J": len(rows), "M": target.nbytes // 4, "G": groups}
    return graph.launch(sum_jobs, {"F": input_type, "A": graph_type(like, -1)}, dims, [*six, table, target], where)


def graph_type(item: Item, index: int) -> Any:
    """The dtype of an item's argument."""
    assert item.spec is not None
    return item.spec.dtype(item.spec.kernel.args[index])
