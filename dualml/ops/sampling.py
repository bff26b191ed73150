"""Drawing tokens from logits on the device, one row of a batch per workgroup. Only the tokens come back.

`settings` are temperature, top_k, top_p, min_p, repetition_penalty, in device memory, so that a captured program can
change them. They act in this order, as in Hugging Face's transformers:

    repetition penalty   logits of tokens seen are divided by it where positive, else multiplied (arXiv 1909.05858)
    temperature          divides the logits; 0 takes the likeliest token, of equals the first
    top_k                keeps so many, and those that tie with the last; 0 keeps all
    top_p                keeps the smallest set of likeliest tokens that has this part of the mass, and those that tie
                         with its last (nucleus sampling, arXiv 1904.09751); 1 keeps all
    min_p                keeps tokens at least so likely, in units of the likeliest one's chance (arXiv 2407.01082)

Each keeps what is above some threshold, so nothing is sorted: the threshold is found by radix select. Probabilities are
counted in units of 2^-31 of what top_k leaves, in integers, whose sums do not depend on their order: every backend
draws alike. A token less likely than half a unit is never drawn. A row that holds NaN or infinity, or -infinity alone
(which is how tokens are masked), gives token -1, and NaN as probabilities.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from ..array import Array, run
from ..errors import ShapeError
from ..kernel import Kernel, kernel
from ..random import Generator
from .random import random_words

_UNITS = 2.0**31
Row = np.ndarray


def _masses(weights: Row, scale: Any) -> Row:
    units = weights * scale
    units += weights.dtype.type(0.5)
    whole: Row = units.astype(np.uint32)
    return whole


def _filtered(logits: Row, settings: Row, seen: Row) -> tuple[Row, Any] | None:
    """Weights of one row's tokens, 0 where a token is not kept, and the factor from them to units. None: not usable."""
    temperature, top_k, top_p, min_p, penalty = settings
    if penalty != 1:
        logits = np.where(seen, logits * np.where(logits > 0, 1 / penalty, penalty), logits)
    top = logits.max(initial=-np.inf)
    if not np.isfinite(top):
        return None
    if not temperature > 0:
        return (np.arange(logits.size) == logits.argmax()).astype(logits.dtype), 1
    keep = logits > -np.inf
    if 0 < top_k < logits.size:
        place = logits.size - int(top_k)
        keep &= logits >= np.partition(logits, place)[place]
    inverse = min(1 / temperature, logits.dtype.type(1e30))  # finite, so that the top has weight 1
    weights = np.exp((logits - top) * inverse)
    weights[~keep] = 0
    scale = logits.dtype.type(_UNITS) / weights.sum()
    if top_p < 1:
        ranked = np.sort(logits[keep])[::-1]
        running = np.cumsum(_masses(np.exp((ranked - top) * inverse), scale), dtype=np.uint64)
        goal = min(max(int(top_p * running[-1].astype(top_p.dtype)), 1), int(running[-1])) - 1
        keep &= logits >= ranked[np.searchsorted(running, np.uint64(goal), side="right")]
    if min_p > 0:
        keep &= logits >= top + temperature * np.log(min_p)
    weights[~keep] = 0
    return weights, scale


# ---- kernels --------------------------------------------------------------------------------------------------------

@kernel("logits[B,V] settings:f32[5] state:u32[4] &seen:u32[B,V] -> token:i32[B] | offset:u32", groups="B",
        software_block=8, static="V", vector="V")
def sample_tokens(logits: Any, settings: Any, state: Any, seen: Any, offset: int) -> Any:
    """A token of each row, drawn with one random word and marked as seen; -1 where the row is not usable."""
    token = np.full(len(logits), -1, np.int32)
    for row, word in enumerate(random_words(state, offset, len(logits))):
        found = _filtered(logits[row], settings, seen[row])
        if found is not None:
            running = np.cumsum(_masses(*found), dtype=np.uint64)
            goal = np.uint64(word) * running[-1] >> np.uint64(32)
            token[row] = np.searchsorted(running, goal, side="right")
            seen[row, token[row]] = 1
    return seen, token


@kernel("logits[B,V] settings:f32[5] seen:u32[B,V] -> probs:f32[B,V]", groups="B", software_block=8, static="V",
        vector="V")
def sampling_probs(logits: Any, settings: Any, seen: Any) -> Any:
    """The chance of each token to be drawn by sample_tokens; NaN where the row is not usable."""
    probs = np.full_like(logits, np.nan)
    for row, out in enumerate(probs):
        found = _filtered(logits[row], settings, seen[row])
        if found is not None:
            np.divide(found[0], found[0].sum(), out=out)
    return probs


# One block reads a whole row: on CUDA a long one is waited for less by more threads.
for _kernel in (sample_tokens, sampling_probs):
    _kernel.variant("wide", "cuda", lambda device, dims: dims["V"] > 4096, groups="B", block=1024)


@kernel("tokens:i32[B,T] &seen:u32[B,V]", groups="B", software_block=8)
def mark_seen(tokens: Any, seen: Any) -> Any:
    """Marks the tokens of each row as seen; those outside the vocabulary are ignored."""
    rows, places = np.nonzero((tokens >= 0) & (tokens < seen.shape[1]))
    seen[rows, tokens[rows, places]] = 1
    return seen


# ---- functions ------------------------------------------------------------------------------------------------------

def _check(name: str, logits: Array) -> None:
    if logits.ndim != 2 or not logits.shape[1]:
        raise ShapeError(f"[{name}] logits must be [B,V] with at least one token, got shape {logits.shape}.")


def sample(logits: Array, settings: Array, seen: Array, generator: Generator) -> Array:
    """Draws a token of each row and marks it in `seen`; int32 [B], -1 where a row holds NaN, infinity or no token.

    Args:
        logits: [B,V], any floating dtype; -infinity masks a token.
        settings: float32 [5], see SamplingOptions.settings.
        seen: uint32 [B,V], nonzero where the token is in the row's text already.
        generator: gives one random word per row.
    """
    state, offset = generator.reserve(logits.shape[0], logits.backend)
    return draw(logits, settings, seen, state, offset)


def draw(logits: Array, settings: Array, seen: Array, state: Array, offset: int = 0, out: Array | None = None) -> Array:
    """sample with words from a place of a generator's stream, for steps that are captured."""
    _check("sample", logits)
    token: Array = run(sample_tokens, logits, settings, state, seen, offset=offset, out=(out,))
    return token


def probabilities(logits: Array, settings: Array, seen: Array) -> Array:
    """What sample draws from: float32 [B,V], 0 for tokens that are filtered out, NaN in rows that are not usable."""
    _check("probabilities", logits)
    probs: Array = run(sampling_probs, logits, settings, seen)
    return probs


def mark(tokens: Array, seen: Array) -> None:
    """Marks tokens, int32 [B,T], in `seen`, uint32 [B,V]. Ids outside the vocabulary are ignored: pad with -1."""
    if tokens.size:
        run(mark_seen, tokens, seen)


_SETTINGS = (
    (1.0, 0, 1.0, 0.0, 1.0), (0.0, 5, 0.5, 0.1, 1.0), (0.0, 0, 1.0, 0.0, 1.5), (0.7, 3, 1.0, 0.0, 1.0),
    (1.3, 0, 0.8, 0.0, 1.2), (1.0, 0, 1.0, 0.05, 0.7), (0.9, 40, 0.9, 0.02, 1.3), (1.0, 60_000, 1e-6, 0.0, 1.0),
)


def kernel_cases(rng: np.random.Generator) -> Iterator[tuple[Kernel, tuple[np.ndarray, ...], dict[str, Any]]]:
    """Sample launches: kernel, inputs and scalars. The base's low word carries on the way."""
    state = np.array([12345, 678, 2**32 - 1, 9], np.uint32)
    for rows, size in ((5, 1), (6, 7), (3, 64), (2, 4100), (2, 5001)):
        logits = 3 * rng.standard_normal((rows, size))
        logits[:, ::3] = np.round(logits[:, ::3])  # ties
        logits[1, 1::2] = -np.inf
        seen = (rng.random((rows, size)) < 0.3).astype(np.uint32)
        for values in _SETTINGS:
            yield sample_tokens, (logits, np.array(values), state, seen), {"offset": 3}
            yield sampling_probs, (logits, np.array(values), seen), {}
        yield mark_seen, (rng.integers(-2, size + 2, (rows, 70), dtype=np.int32), seen), {}
    broken = rng.standard_normal((6, 64))
    broken[0, 5], broken[1, 6], broken[2], broken[3, 7] = np.nan, np.inf, -np.inf, -np.nan
    none = np.zeros((6, 64), np.uint32)
    for values in _SETTINGS[:3]:
        yield sample_tokens, (broken, np.array(values), state, none), {"offset": 0}
        yield sampling_probs, (broken, np.array(values), none), {}
