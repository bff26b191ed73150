"""Gradients go straight to where they are added."""

from __future__ import annotations

from ..ops.embedding import embedding_accumulate
from .graph import Graph, is_kernel


def add_in_place(graph: Graph) -> None:
    """An embedding's gradient that is only added to another is not made whole first: most of its rows are zero."""
    index = 0
    while index < len(graph.items):
        item = graph.items[index]
        made = item.places[-1] if is_kernel(item, "embedding_backward") else None
        at = next((i for i, _ in graph.uses(made, index + 1)), None) if made is not None else None
        index += 1
        if made is None or at is None or not is_kernel(graph.items[at], "accumulate"):
            continue
        total, value = graph.items[at].places
        if value != made or not graph.is_temporary(made.number) or not graph.unseen(made, at + 1, len(graph.items)) \
                or not graph.can_move(index - 1, at):
            continue
        assert item.spec is not None
        dims = {"V": item.dims["S"] - 1, "C": item.dims["C"], "N": item.dims["N"]}
        joined = graph.launch(embedding_accumulate, dict(item.spec.types), dims, [total, *item.places[:3]], item.where)
        graph.replace([index - 1, at], {at: joined})
        graph.note("gradients", f"{item.name} ({item.where}) adds to the gradient that is there", 1)
