"""Gradients are clipped by the launch that takes AdamW's step, as it reads them."""

from __future__ import annotations

from ..dtypes import float32
from ..ops.optimizer import clip_adamw
from .graph import Graph, is_kernel, reads_what_it_writes


def fuse_clipping(graph: Graph) -> None:
    """scale_by_norm whose result an adamw reads next, all of it. The one launch writes back what it has scaled, for who
    looks at the gradients afterwards. In float32 only, where what is stored is what was computed."""
    index = 0
    while index < len(graph.items):
        if not (is_kernel(graph.items[index], "scale_by_norm") and _clip(graph, index)):
            index += 1


def _clip(graph: Graph, index: int) -> bool:
    item = graph.items[index]
    grad, norm = item.places
    at = next((i for i, _ in graph.uses(grad, index + 1)), None)
    if at is None or not is_kernel(graph.items[at], "adamw") or not graph.can_move(index, at):
        return False
    step = graph.items[at]
    param, wanted, m, v, hyper, scale = step.places
    assert item.spec is not None
    assert step.spec is not None
    if wanted != grad or {float32} != {dtype for _, dtype in (*item.spec.types, *step.spec.types)}:
        return False
    made = graph.launch(clip_adamw, {"F": float32}, {**step.dims, "max_norm": item.dims["max_norm"]},
                        [param, grad, m, v, hyper, scale, norm], step.where)
    if reads_what_it_writes(made):
        return False
    graph.replace([index, at], {at: made})
    graph.note("clipping", f"{step.spec.kernel.name} ({step.where}) scales the gradients as it reads them", 1)
    return True
