"""What each head of a model looks at: softmax(scale q kᵀ) of the very queries and keys that its attention kernel reads.

The kernel itself never has these probabilities in memory (ops/attention.py), so they are made a second time, on the
model's backend, from what a hook on the one door saw it launched with.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .. import creation, functional as F, runtime
from ..array import Array
from ..errors import DataError
from ..tape import no_grad
from ..tensor import Tensor
from .generation import TextModel

MOST_TOKENS = 256  # a map has their square of values


def attention_maps(model: TextModel, tokens: Sequence[int] | np.ndarray) -> list[np.ndarray]:
    """Of each layer the probabilities [heads,T,T]: row i is how much token i takes from each token.

    Raises:
        DataError: there are no tokens, or more than MOST_TOKENS or the model's context.
    """
    most = min(MOST_TOKENS, model.config.context)
    if not 0 < len(tokens) <= most:
        raise DataError(f"[attention] the text must have 1 to {most} tokens, got {len(tokens)}. Use a part of it.")
    was_training, hook = model.training, _Queries()
    model.eval()
    runtime.hooks.append(hook)
    try:
        with no_grad():
            model.hidden(creation.tensor(np.array([tokens], np.int32), backend=model.wte.weight.backend))
    finally:
        runtime.hooks.remove(hook)
        model.train(was_training)
    with no_grad():
        return [_probabilities(*seen).numpy() for seen in hook.seen]


class _Queries:
    """Keeps the queries and keys of each launch of the attention kernel, with how they lie in memory."""

    def __init__(self) -> None:
        self.seen: list[tuple[Array, Array, dict[str, float]]] = []

    def before(self, launch: runtime.Launch) -> None: ...

    def after(self, launch: runtime.Launch) -> None:
        if launch.spec.kernel.name != "attention_forward":
            return
        found = []
        for argument, bound in zip(launch.spec.kernel.args[:2], launch.bindings[:2], strict=True):
            shape, dtype = tuple(int(launch.dims[name]) for name in argument.dims), launch.spec.dtype(argument)
            found.append(Array(bound.buffer, shape, dtype, bound.offset // launch.backend.storage(dtype).itemsize))
        self.seen.append((found[0], found[1], dict(launch.dims)))


def _probabilities(queries: Array, keys: Array, n: dict[str, float]) -> Tensor:
    """[H,TQ,TK] of one text, from rows as ops/attention.py tells them to lie."""
    heads, steps, seen = np.arange(int(n["H"])), np.arange(int(n["TQ"])), np.arange(int(n["TK"]))
    shared = heads // (int(n["H"]) // int(n["KVH"]))  # query heads that share a key head
    q = _gathered(queries, heads[:, None] * int(n["q_h"]) + steps * int(n["q_t"]))  # [H,TQ,D]
    k = _gathered(keys, int(n["k_at"]) + shared[:, None] * int(n["k_h"]) + seen * int(n["k_t"]))  # [H,TK,D]
    scores = q.matmul(k.transpose(1, 2)) * float(n["scale"])
    hidden = np.where(seen <= steps[:, None] + int(n["offset"]), 0.0, -1e30).astype(np.float32)
    return F.softmax(scores + creation.tensor(hidden, backend=scores.backend), -1)


def _gathered(rows: Array, places: np.ndarray) -> Tensor:
    return F.embedding(creation.tensor(places.astype(np.int32), backend=rows.backend.name), Tensor(rows)).float()
