"""A cache of keys and values changes how fast the next token comes, not what it is."""

from __future__ import annotations

import numpy as np
import pytest

import dualml as dm
from dualml import nn
from dualml.errors import DTypeError, ShapeError
from dualml.models import GPT, GPTConfig

CONTEXT = 24


def _model(**changes: object) -> GPT:
    dm.manual_seed(2)
    model = GPT(GPTConfig(**{**dict(vocab_size=29, context=CONTEXT, layers=2, heads=2, width=16, head_bias=True),
                             **changes}))
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1:  # larger than initial ones, so that mistakes show
            nn.init.normal_(parameter, 0.0, 0.3 if "w" in name else 0.1)
    return model.eval()


@pytest.mark.parametrize("first", [1, 2, 7, CONTEXT - 1, CONTEXT])
@pytest.mark.parametrize("batch", [1, 3])
def test_cached_equals_uncached(first: int, batch: int, backend: str) -> None:
    """A prompt of any length at once, then tokens one by one and in pairs."""
    model = _model()
    tokens = np.random.default_rng(first).integers(0, 29, (batch, CONTEXT)).astype(np.int32)
    with dm.no_grad():
        whole = model.head(model.hidden(dm.tensor(tokens))).numpy()
        cache, at, found = model.make_cache(batch), 0, []
        while at < CONTEXT:
            steps = first if at == 0 else min(1 + at % 2, CONTEXT - at)
            found.append(model.head(model.hidden(dm.tensor(tokens[:, at:at + steps]), cache)).numpy())
            at += steps
            assert cache.length == at
    np.testing.assert_allclose(np.concatenate(found, 1), whole, rtol=2e-5, atol=2e-5)


def test_grouped_heads(backend: str) -> None:
    layer = nn.MultiheadAttention(16, 4, causal=True, num_kv_heads=2)
    x = dm.randn(2, 9, 16)
    with dm.no_grad():
        cache = nn.KVCache(1, 2, 12, 8, x._array.backend)
        parts = []
        for begin, end in ((0, 4), (4, 5), (5, 9)):
            parts.append(layer(x[:, begin:end], cache).numpy())
            cache.advance(end - begin)
        np.testing.assert_allclose(np.concatenate(parts, 1), layer(x).numpy(), rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_sequences_of_different_lengths(backend: str, dtype: str) -> None:
    """Prompts padded at the end: each sequence goes on from its own length, as if it were alone."""
    model, lengths = _model(), [3, 11, 7]
    tokens = np.random.default_rng(7).integers(0, 29, (3, CONTEXT)).astype(np.int32)
    with dm.no_grad():
        whole = model.head(model.hidden(dm.tensor(tokens))).numpy()
        cache = model.make_cache(3, dtype)
        model.hidden(dm.tensor(tokens[:, :11]), cache)
        cache.set_lengths(lengths)
        for steps in (1, 1, 9):  # few tokens, and enough for tiles
            at = np.array(lengths)[:, None] + np.arange(steps)
            rows = np.arange(3)[:, None]
            found = model.head(model.hidden(dm.tensor(tokens[rows, at]), cache)).numpy()
            worst = np.abs(found - whole[rows, at]).max() / np.abs(whole).max()
            assert worst < (0.02 if dtype == "int8" else 1e-5)
            lengths = [n + steps for n in lengths]


def test_eight_bits(backend: str) -> None:
    """A quarter of the bytes, and answers that differ by about a hundredth."""
    model = _model()
    tokens = dm.tensor(np.random.default_rng(5).integers(0, 29, (2, CONTEXT)).astype(np.int32))
    with dm.no_grad():
        whole = model.head(model.hidden(tokens)).numpy()
        cache = model.make_cache(2, "int8")
        parts = [model.hidden(tokens[:, :13], cache), *[model.hidden(tokens[:, i:i + 1], cache) for i in range(13, 17)],
                 model.hidden(tokens[:, 17:], cache)]
        found = np.concatenate([model.head(x).numpy() for x in parts], 1)
    assert 0 < np.abs(found - whole).max() < 0.02 * np.abs(whole).max()
    floats = sum(x.nbytes for x in model.make_cache(2).layers[0])
    assert sum(x.nbytes for x in cache.layers[0][:2]) * 4 == floats
    with pytest.raises(DTypeError, match="float16, bfloat16 or \"int8\", got 'int32'"):
        model.make_cache(1, "int32")


def test_generating_beyond_the_context(fast_backend: str) -> None:
    """Where the context is full, its later half is read anew; tokens are those that uncached reading would give."""
    model, seen = _model(), [1, 2, 3]
    found = model.generate(seen, 3 * CONTEXT, temperature=0)
    window = list(seen)
    for token in found:
        with dm.no_grad():
            logits = model(dm.tensor(np.array([window], np.int32)))[0].numpy()[0, -1]
        assert logits[token] >= logits.max() - 1e-4
        window.append(token)
        if len(window) > CONTEXT:
            window = window[-(CONTEXT // 2):]


def test_a_new_token_costs_one_token(cpu: None, launches: list[str]) -> None:
    model = _model()
    stream = model.stream([1, 2, 3])
    next(stream)
    launches.clear()
    next(stream)
    assert launches.count("matmul") == 4 * 2 + 1
    assert launches.count("decode_attention") == 2


def test_refusals(cpu: None) -> None:
    model = _model()
    cache = model.make_cache()
    with pytest.raises(ShapeError, match=r"within dm.no_grad\(\)"):
        model.hidden(dm.zeros(1, 2, dtype="int32"), cache)
    with dm.no_grad():
        model.hidden(dm.zeros(1, CONTEXT - 1, dtype="int32"), cache)
        with pytest.raises(ShapeError, match=r"at most 24 \(the context\) less the 23 in the cache"):
            model.hidden(dm.zeros(1, 2, dtype="int32"), cache)
        with pytest.raises(ShapeError, match="does not fit a cache of 1 sequences and head size 4"):
            nn.KVCache(1, 1, 4, 8, cache.layers[0][0].backend).attend(0, dm.zeros(1, 2, 48), 2, 2)


def test_a_cache_grows(fast_backend: str) -> None:
    model = _model()
    tokens = dm.tensor(np.arange(CONTEXT, dtype=np.int32)[None] % 29)
    with dm.no_grad():
        whole = model.head(model.hidden(tokens)).numpy()
        cache = nn.KVCache(2, 1, 2, 16, tokens._array.backend)
        found = [model.head(model.hidden(tokens[:, i:i + 1], cache)).numpy() for i in range(CONTEXT)]
    assert CONTEXT <= cache.capacity <= 2 * CONTEXT
    np.testing.assert_allclose(np.concatenate(found, 1), whole, rtol=2e-5, atol=2e-5)
