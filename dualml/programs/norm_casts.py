"""Norms take over mixed precision's casts: what only a norm reads it reads in 16 bits, and so it stores what only a
cast reads. The norm itself goes on in float32, and rounds where the cast did.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..dtypes import DType, bfloat16, float16, float32
from .graph import Graph, is_kernel
from .norms import BACKWARD, DX, FORWARD, RESIDUAL, H, X, beside_dx, each, remade, take_over
from .recording import Item, Place


def fuse_norm_casts(graph: Graph) -> None:
    each(graph, _before)
    each(graph, _after)


def fuse_gradient_casts(graph: Graph) -> None:
    """After dropout, which takes the cast before it along."""
    places: list[Place] = []  # a state for all, which nobody reads

    def state() -> Place:
        places[:] = places or [graph.constant(np.zeros(4, np.uint32))]
        return places[0]
    each(graph, lambda graph, index: _beside(graph, index, state))


def narrowed(item: Item) -> DType | None:
    """The 16-bit dtype to which a launch casts float32."""
    dtypes = _of_cast(item)
    return dtypes[1] if dtypes is not None and dtypes[0] is float32 and dtypes[1] in (float16, bfloat16) else None


def _widened(item: Item) -> DType | None:
    """The 16-bit dtype from which a launch casts to float32."""
    dtypes = _of_cast(item)
    return dtypes[0] if dtypes is not None and dtypes[1] is float32 and dtypes[0] in (float16, bfloat16) else None


def _of_cast(item: Item) -> tuple[DType, DType] | None:
    if not is_kernel(item, "cast_forward") or item.dims["low"] != item.dims["high"]:
        return None
    assert item.spec is not None
    one, two = (item.spec.dtype(arg) for arg in item.spec.kernel.args)
    return one, two


def _before(graph: Graph, index: int) -> bool:
    """w = float32(s), norm(w) becomes norm(s); what is added may be the one or the other."""
    item = graph.items[index]
    short = _widened(item)
    if short is None:
        return False
    source, wide = item.places
    uses = [at for at, _ in graph.uses(wide, index + 1)]
    norm = graph.items[uses[0]] if len(uses) == 1 else item
    if not is_kernel(norm, *FORWARD, *BACKWARD) or not graph.is_temporary(wide.number):
        return False
    assert norm.spec is not None
    places, types = list(norm.places), dict(norm.spec.types)
    letter = "X" if is_kernel(norm, *FORWARD) else "D"
    if letter == "X" and places[RESIDUAL] == wide:
        places[X], places[RESIDUAL] = places[RESIDUAL], places[X]
    if places[0] != wide or types[letter] is not float32 or types["F"] is not float32:
        return False
    if not graph.can_move(index, uses[0]):
        graph.note("norm", f"cast ({item.where}) stays: what it reads changes before {norm.name} ({norm.where})")
        return False
    places[0] = source
    return take_over(graph, (index, uses[0]), uses[0], remade(graph, norm, places, {letter: short}),
                     f"{norm.name} ({norm.where}) reads {short.name}")


def _after(graph: Graph, index: int) -> bool:
    """out = norm(x), s = 16 bits of out becomes s = norm(x)."""
    norm = graph.items[index]
    if not is_kernel(norm, *FORWARD):
        return False
    out = H[norm.name] + 1
    made = norm.places[out]
    uses = [at for at, _ in graph.uses(made, index + 1)]
    item = graph.items[uses[0]] if len(uses) == 1 else norm
    short = narrowed(item)
    if short is None or item.places[0] != made or not graph.is_temporary(made.number):
        return False
    target = item.places[1]
    if not graph.unseen(target, index, uses[0]):
        graph.note("norm", f"cast ({item.where}) stays after {norm.name} ({norm.where}): its memory is in use")
        return False
    places = list(norm.places)
    places[out] = target
    return take_over(graph, (index, uses[0]), index, remade(graph, norm, places, {"Y": short}),
                     f"{norm.name} ({norm.where}) stores {short.name}")


def _beside(graph: Graph, index: int, state: Callable[[], Place]) -> bool:
    """dx = norm backward, s = 16 bits of dx becomes dx, s = norm backward: others read dx too."""
    norm = graph.items[index]
    if not is_kernel(norm, *BACKWARD):
        return False
    dx = norm.places[DX[norm.name]]
    at = next((i for i, _ in graph.uses(dx, index + 1) if narrowed(graph.items[i]) is not None), None)
    short = narrowed(graph.items[at]) if at is not None else None
    if at is None or short is None or graph.items[at].places[0] != dx:
        return False
    target, done = graph.items[at].places[1], f"stores {short.name} too"
    if norm.name == "layer_norm_backward":
        numbers = {"DROP": 0, "rounding": 0, "offset": 0, "threshold": 0, "scale": 1.0}
        return beside_dx(graph, index, [at], state(), target, numbers, done)
    if norm.dims["Z"] or not graph.untouched(dx, index + 1, at) or not graph.unseen(target, index, at):
        return False
    made = remade(graph, norm, [*norm.places[:-1], target], {"Y": short}, Z=1)
    return take_over(graph, (index, at), index, made, f"{norm.name} ({norm.where}) {done}")
