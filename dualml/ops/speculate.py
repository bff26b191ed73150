"""Which of a draft model's tokens a larger model takes over, and the token that it adds.

Source: Leviathan, Kalman, Matias 2023, "Fast Inference from Transformers via Speculative Decoding", arXiv 2211.17192,
algorithm 1. A drafted token x is taken with probability min(1, p(x) / q(x)); after the first that is not, a token is
drawn from max(p - q, 0), and after all of them from p. What results has the distribution p.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from ..array import Array, run
from ..kernel import Kernel, kernel
from .random import random_words


@kernel("draft:f32[Q,V] full:f32[Q+1,V] tokens:i32[Q] state:u32[4] &lengths:i32[1] &draft_lengths:i32[1] "
        "-> out:i32[Q+2] | offset:u32", groups="1", block=256, software_block=32)
def speculate(draft: Any, full: Any, tokens: Any, state: Any, lengths: Any, draft_lengths: Any, offset: int) -> Any:
    """The token that follows, -1 where a row of either is not usable (NaN, its token -1); how many tokens are taken
    over, and these. Both caches lose those that are not."""
    count = len(tokens)
    chances = (random_words(state, offset, count + 1) >> np.uint32(8)).astype(np.float32) * np.float32(2.0**-24)
    own, theirs = (x[np.arange(count), tokens] for x in (full, draft))
    taken = int(np.argmin(np.append(chances[:count] * theirs < own, False)))
    rest = full[count] if taken == count else np.maximum(full[taken] - draft[taken], 0)
    running = np.cumsum(rest if rest.any() else full[taken])
    new = min(int(np.searchsorted(running, chances[count] * running[-1], side="right")), len(running) - 1)
    if np.isnan(full[taken, 0]) or (taken < count and tokens[taken] < 0):
        new = -1
    for each in (lengths, draft_lengths):
        each -= count - taken
    return lengths, draft_lengths, np.array([new, taken, *tokens], np.int32)


def speculated(draft: Array, full: Array, tokens: Array, state: Array, lengths: Array, draft_lengths: Array,
               offset: int, out: Array | None = None) -> Array:
    """int32 [Q+2]: the token that follows those taken over, their number, and all drafted tokens. The first is -1
    where probabilities are NaN.

    Args:
        draft: probabilities [Q,V] that the tokens were drawn with.
        full: the larger model's [Q+1,V] in their places, and after the last.
        tokens: int32 [Q].
        lengths, draft_lengths: int32 [1], tokens in both caches; those that are not taken over are counted off.
        offset: counters of the random stream that are used before: Q + 1 words follow.
    """
    found: Array = run(speculate, draft, full, tokens, state, lengths, draft_lengths, offset=offset, out=(out,))
    return found


def kernel_cases(rng: np.random.Generator) -> Iterator[tuple[Kernel, tuple[np.ndarray, ...], dict[str, Any]]]:
    """Sample launches of this module's kernel."""
    state = np.array([5, 6, 7, 8], np.uint32)
    for count, size in ((1, 1), (1, 5), (4, 33), (7, 1000), (3, 1)):
        for alike in (0.0, 0.9, 1.0):
            draft = rng.exponential(size=(count, size))
            full = np.concatenate([draft, draft[:1]]) * alike + rng.exponential(size=(count + 1, size)) * (1 - alike)
            tokens = rng.integers(0, size, count, np.int32)
            both = [x / x.sum(1, keepdims=True) for x in (draft, full)]
            ends = np.array([9], np.int32), np.array([5], np.int32)
            yield speculate, (*both, tokens, state, *ends), {"offset": 3}
            for broken in both:  # a row that is not usable is all NaN
                rows = [np.where(np.arange(len(x))[:, None] == len(x) // 2, np.nan, x) if x is broken else x
                        for x in both]
                drawn = np.where(np.isnan(rows[0][:, 0]), -1, tokens).astype(np.int32)
                yield speculate, (*rows, drawn, state, *ends), {"offset": 3}
