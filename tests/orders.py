"""A second, slower way to say which launches of a program must come after which, and orders that dependences allow."""

from __future__ import annotations

import random
from collections.abc import Collection, Iterator, Sequence

from dualml.programs import Program
from dualml.programs.branches import Use

Launches = Sequence[Sequence[Use]]
Edges = Sequence[Collection[int]]


def reach(after: Edges) -> list[set[int]]:
    """For each launch all that come before it."""
    found: list[set[int]] = []
    for edges in after:
        found.append(set(edges).union(*(found[e] for e in edges)))
    return found


def conflicts(launches: Launches) -> Iterator[tuple[int, int]]:
    """All pairs of launches that may not be exchanged."""
    for later, uses in enumerate(launches):
        for earlier in range(later):
            if any(one.buffer is two.buffer and (w or v) and max(one.offset, two.offset) <
                   min(one.offset + one.nbytes, two.offset + two.nbytes)
                   for one, w in uses for two, v in launches[earlier]):
                yield earlier, later


def unordered(launches: Launches, after: Edges) -> list[tuple[int, int]]:
    before = reach(after)
    return [(a, b) for a, b in conflicts(launches) if a not in before[b]]


def uses(program: Program) -> Launches:
    return [[(b, access != "read") for b, (_, access) in zip(one.bindings, item.accesses(), strict=True)]
            for one, item in zip(program._frozen, program.items, strict=True)]


def some_order(after: Edges, rng: random.Random) -> list[int]:
    """A random order in which each launch follows those that it is after."""
    left, order = dict(enumerate(map(set, after))), []
    while left:
        order.append(rng.choice([i for i, waits in left.items() if not waits]))
        del left[order[-1]]
        for waits in left.values():
            waits.discard(order[-1])
    return order
