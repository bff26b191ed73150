"""Two matrix products that do not need one another share a launch, as a linear layer's two gradients do."""

from __future__ import annotations

from typing import Any

from ..ops.matmul_pair import matmul_pair
from .graph import Graph, is_kernel, overlap, reads_what_it_writes
from .recording import Item


def pair_products(graph: Graph) -> None:
    """Each product with the next one, where the two can stand side by side."""
    if not graph.backend.own_products:
        graph.note("pairs", "matrix products stay alone: a library makes them")
        return
    index = 0
    while index < len(graph.items):
        at = next((i for i in range(index + 1, len(graph.items)) if is_kernel(graph.items[i], "matmul")), None)
        if at is None or not _plain(graph.items[index]) or not _plain(graph.items[at]) or not _join(graph, index, at):
            index += 1


def _plain(item: Item) -> bool:
    """A product of two matrices without a bias, of more rows than a vector or two, for which there are better ways; so
    are there where tensor cores make it."""
    return is_kernel(item, "matmul") and item.dims["B"] == 1 and not item.dims["has_bias"] and item.dims["M"] > 2 \
        and not item.spec.stem.endswith(".mma")  # type: ignore[union-attr]


def _join(graph: Graph, index: int, at: int) -> bool:
    one, two = graph.items[index], graph.items[at]
    assert one.spec is not None
    assert two.spec is not None
    needed = any(overlap(one.places[-1], place) for place, _ in two.accesses())
    if needed or one.spec.types != two.spec.types or not graph.can_move(index, at):
        return False
    dims: dict[str, Any] = {name + z: item.dims[name] for z, item in (("", one), ("2", two))
                            for name in ("P", "Q", "R", "S", "M", "N", "K", "ta", "tb")}
    (a, b, _, out), (a2, b2, _, out2) = one.places, two.places
    made = graph.launch(matmul_pair, dict(one.spec.types), dims, [a, b, a2, b2, out, out2], two.where)
    if reads_what_it_writes(made):
        return False
    graph.replace([index, at], {at: made})
    graph.note("pairs", f"two matmul ({two.where}) are one launch", 1)
    return True
