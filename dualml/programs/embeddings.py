"""Rows of a table take over the additions around them: of positions forwards, to another gradient backwards."""

from __future__ import annotations

from typing import Any

from ..ops.embedding import embedding_accumulate, embedding_add_forward
from .graph import Graph, is_kernel, reads_what_it_writes
from .norms import rounds
from .recording import Item, Place


def fuse_embeddings(graph: Graph) -> None:
    index = 0
    while index < len(graph.items):
        if not _add_to_rows(graph, index) and not _add_in_place(graph, index):
            index += 1


def _only_use(graph: Graph, index: int) -> int | None:
    """The one launch that uses what a launch makes, right before which the launch could also run."""
    made = graph.items[index].places[-1]
    uses = [at for at, _ in graph.uses(made, index + 1)]
    return uses[0] if len(uses) == 1 and graph.is_temporary(made.number) and graph.can_move(index, uses[0]) else None


def _add_to_rows(graph: Graph, index: int) -> bool:
    """Rows of a table plus those of another, again and again: tokens and positions."""
    item = graph.items[index]
    at = _only_use(graph, index) if is_kernel(item, "embedding_forward") else None
    added = _repeated(graph.items[at], item) if at is not None else None
    if at is None or added is None:
        return False
    assert item.spec is not None
    table, indices, rows = item.places
    dims: dict[str, Any] = {n: item.dims[n] for n in ("V", "C", "N")}
    dims["L"] = added.nbytes * dims["N"] // rows.nbytes
    made = graph.launch(embedding_add_forward, dict(item.spec.types), dims,
                        [table, indices, added, graph.items[at].places[-1]], item.where)
    if reads_what_it_writes(made):
        return False
    graph.replace([index, at], {at: made})
    graph.note("embedding", f"{item.name} ({item.where}) adds what is added to its rows", 1)
    return True


def _repeated(add: Item, rows: Item) -> Place | None:
    """What a launch adds to an embedding's rows: as many of its own, or fewer, which begin anew until all have one."""
    if not is_kernel(add, "add_forward") or len(add.places) != 3 or add.spec.types != rows.spec.types:  # type: ignore
        return None
    context: Any = add.spec.kernel.context  # type: ignore[union-attr]
    operands, made = context["operands"], rows.places[-1]
    for mine, other in ((0, 1), (1, 0)):
        spread, place = operands[other].strides, add.places[other]
        again = spread is None or (spread == (0, 1) and context["sizes"][-1] % rows.dims["C"] == 0)
        if add.places[mine] == made and operands[mine].strides is None and again and not operands[other].number \
                and place != made:
            return place
    return None


def _add_in_place(graph: Graph, index: int) -> bool:
    """An embedding's gradient that is only added to another is not made whole first: most of its rows are zero."""
    item = graph.items[index]
    at = _only_use(graph, index) if is_kernel(item, "embedding_backward") else None
    if at is None or not is_kernel(graph.items[at], "accumulate"):
        return False
    total, value = graph.items[at].places
    if value != item.places[-1] or rounds(graph, item, graph.items[at], "embedding"):
        return False
    assert item.spec is not None
    dims = {"V": item.dims["S"] - 1, "C": item.dims["C"], "N": item.dims["N"]}
    joined = graph.launch(embedding_accumulate, dict(item.spec.types), dims, [total, *item.places[:3]], item.where)
    if reads_what_it_writes(joined):
        return False
    graph.replace([index, at], {at: joined})
    graph.note("embedding", f"{item.name} ({item.where}) adds to the gradient that is there", 1)
    return True
