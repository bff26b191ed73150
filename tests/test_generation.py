"""Writing text: what is drawn does not depend on how the steps are run, and ends where it should."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest

import dualml as dm
from dualml import nn, optim
from dualml.array import from_numpy
from dualml.errors import ShapeError
from dualml.models import GPT, GPTConfig, Llama, LlamaConfig, SamplingOptions
from dualml.models.beam import BeamSearch, beam_search
from dualml.models.decoding import Decoding
from dualml.models.generation import TextModel
from dualml.models.speculative import SpeculativeDecoding
from dualml.ops.speculate import speculated
from dualml.text.stops import until

CONTEXT, VOCABULARY = 24, 29


def _model(kind: str = "gpt") -> TextModel:
    dm.manual_seed(2)
    sizes = dict(vocab_size=VOCABULARY, context=CONTEXT, layers=2, heads=4, width=16)
    model: TextModel = GPT(GPTConfig(**sizes, dropout=0.3)) if kind == "gpt" else Llama(
        LlamaConfig(**sizes, kv_heads=2, hidden=40))
    for parameter in model.parameters():
        if parameter.ndim > 1:  # larger than initial ones, so that tokens differ
            nn.init.normal_(parameter, 0.0, 0.4)
    return model


def _written(decoding: Decoding, prompts: list[list[int]], count: int) -> np.ndarray:
    decoding.read(prompts)
    return np.array(list(islice(decoding, count)))


@pytest.mark.parametrize("kind", ["gpt", "llama"])
@pytest.mark.parametrize("cache", [None, "int8"])
def test_captured_steps_write_what_calls_write(backend: str, kind: str, cache: str | None) -> None:
    """Past the context too, where texts are read anew."""
    model, options = _model(kind), SamplingOptions(0.8, top_k=9, top_p=0.95)
    texts = [_written(Decoding(model, 2, options, 5, cache, captured), [[1, 2, 3], [4]], 40)
             for captured in (True, False)]
    np.testing.assert_array_equal(*texts)
    assert model.training, "the model is given back as it was"


@pytest.mark.parametrize("kind", ["gpt", "llama"])
def test_texts_of_a_batch_are_what_each_is_alone(backend: str, kind: str) -> None:
    model = _model(kind)
    prompts = [[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11], [4], [7, 7, 7]]
    together = model.generate(prompts, 30, temperature=0)
    assert together == [model.generate(p, 30, temperature=0) for p in prompts]
    assert len({tuple(t) for t in together}) == 3


def test_a_text_that_goes_on_is_not_read_again(cpu: None, launches: list[str]) -> None:
    model = _model()
    decoding = Decoding(model, options=SamplingOptions(temperature=0))
    first = _written(decoding, [[1, 2, 3, 4]], 5)[:, 0].tolist()
    longer = [1, 2, 3, 4, *first, 9, 8]
    launches.clear()
    decoding.read([longer])
    again = decoding.cache.length
    found = list(islice(decoding, 5))
    assert again == len(longer)
    assert launches.count("attention_forward") == 0, "three tokens are few"
    assert [int(t[0]) for t in found] == model.generate(longer, 5, temperature=0)
    other = [1, 2, 9, 9, 9]
    assert _written(decoding, [other], 5)[:, 0].tolist() == model.generate(other, 5, temperature=0)


def test_stop_tokens(cpu: None) -> None:
    model = _model()
    whole = model.generate([[1], [2]], 20, temperature=0)
    stop = whole[0][4]
    cut = [text[:text.index(stop)] if stop in text else text for text in whole]
    assert model.generate([[1], [2]], 20, temperature=0, stop={stop}) == cut
    assert model.generate([1], 0) == []


def test_options_reach_the_device(fast_backend: str) -> None:
    model = _model()
    plain = model.generate([1, 2], 15, temperature=0)
    assert len(set(plain)) < 15
    many = model.generate([1, 2], 15, temperature=0, repetition_penalty=1e6)
    assert len({1, 2, *many}) == 17, "no token comes twice"
    for tight in (dict(top_k=1), dict(top_p=1e-6), dict(min_p=1.0)):
        assert model.generate([1, 2], 15, temperature=1.5, **tight) == plain
    assert model.generate([1, 2], 15, temperature=1.5, seed=1) != plain


@pytest.mark.parametrize(("options", "message"), [
    ({"temperature": -1.0}, "temperature must be 0 or more, got -1.0"), ({"top_k": 0}, "top_k must be at least 1"),
    ({"top_p": 0.0}, "top_p must be above 0 and at most 1, got 0.0"), ({"min_p": 2.0}, "min_p must be from 0 to 1"),
    ({"repetition_penalty": 0.0}, "repetition_penalty must be above 0"),
    ({"temperature": float("nan")}, "temperature must be 0 or more, got nan")])
def test_refusals(options: dict[str, float], message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        SamplingOptions(**options)  # type: ignore[arg-type]


def test_prompts_that_cannot_be_read(cpu: None) -> None:
    with pytest.raises(ShapeError, match="2 prompts of at least one token to go on from, got 2 of lengths"):
        _model().generate([[1], []], 3)
    with pytest.raises(ShapeError, match="max_new_tokens must be 0 or more"):
        _model().generate([1], -1)


@pytest.mark.parametrize(("pieces", "stops", "text"), [
    (["ab", "c.", " d"], ["."], "abc"), (["ab", "<en", "d>", "x"], ["<end>"], "ab"), (["abc"], [], "abc"),
    (["a<en", "e"], ["<end>"], "a<ene"), (["aab", "aac"], ["aaa", "aac"], "aab"), (["x", "yz"], ["yz", "xyz"], ""),
    (["<<e", "nd>"], ["<end>"], "<"), ([], ["a"], ""), (["tail <en"], ["<end>"], "tail <en")])
def test_stop_strings(pieces: list[str], stops: list[str], text: str) -> None:
    assert "".join(until(iter(pieces), stops)) == text


def test_stop_strings_hold_back_no_more_than_they_must() -> None:
    assert list(until(iter(["hello <", "b> ", "<end", "> x"]), ["<end>"])) == ["hello ", "<b> "]


def _small() -> TextModel:
    dm.manual_seed(3)
    return GPT(GPTConfig(vocab_size=VOCABULARY, context=15, layers=1, heads=1, width=8))


def _tokens(source: SpeculativeDecoding, count: int) -> list[int]:
    found: list[int] = []
    for tokens in source:
        found += tokens
        if len(found) >= count:
            return found[:count]
    raise AssertionError


@pytest.mark.parametrize("kind", ["gpt", "llama"])
def test_a_draft_does_not_change_greedy_text(fast_backend: str, kind: str) -> None:
    """Neither a useless draft nor one that is always right, past the contexts of both too."""
    model = _model(kind)
    plain = model.generate([1, 2, 3], 60, temperature=0)
    for draft, accepted in ((_small(), None), (model, 1.0)):
        writer = SpeculativeDecoding(model, draft, SamplingOptions(temperature=0), ahead=3)
        writer.read([1, 2, 3])
        assert _tokens(writer, 60) == plain
        assert accepted is None or writer.accepted == accepted


def test_captured_rounds_write_what_calls_write(backend: str) -> None:
    model, draft, texts = _model(), _small(), []
    for captured in (True, False):
        writer = SpeculativeDecoding(model, draft, SamplingOptions(0.9, top_k=8), seed=4, captured=captured)
        writer.read([5, 6])
        texts.append(_tokens(writer, 50))
    assert texts[0] == texts[1]


def test_a_draft_does_not_change_the_distribution(cpu: None) -> None:
    """Pairs of tokens after a prompt, drawn with a draft and without: two samples of one distribution."""
    dm.manual_seed(6)
    sizes = dict(vocab_size=4, context=8, layers=1, heads=1, width=8)
    model, draft = GPT(GPTConfig(**sizes)), GPT(GPTConfig(**sizes))
    for each in (model, draft):
        nn.init.normal_(each.wte.weight, 0.0, 0.5)
    count, tables = 400, np.zeros((2, 4, 4))
    writer, plain = SpeculativeDecoding(model, draft, ahead=2, seed=1), Decoding(model, seed=2)
    for _ in range(count):
        writer.read([0])
        _, second, third = _tokens(writer, 3)
        tables[0, second, third] += 1
        plain.read([[0]])
        _, second, third = (t[0] for t in islice(plain, 3))
        tables[1, second, third] += 1
    assert 0.3 < writer.accepted < 0.98
    difference = (tables[0] - tables[1])**2 / np.maximum(1, tables.sum(0))
    assert difference.sum() < 37.7, "chi-square with 15 degrees of freedom, 0.001"


def test_what_is_taken_over_has_the_larger_models_distribution(cpu: None) -> None:
    """The kernel alone, many times: the first token of each round, and the second where the first was taken."""
    rng = np.random.default_rng(0)
    draft, full = rng.dirichlet(np.ones(5), 2).astype(np.float32), rng.dirichlet(np.ones(5), 3).astype(np.float32)
    arrays = [from_numpy(x) for x in (draft, full)]
    state = from_numpy(np.array([1, 2, 3, 4], np.uint32))
    first, second, rounds = np.zeros(5), np.zeros(5), 4000
    for number in range(rounds):
        tokens = np.array([rng.choice(5, p=q / q.sum()) for q in draft.astype(np.float64)], np.int32)
        lengths = [from_numpy(np.array([9], np.int32)) for _ in range(2)]
        new, taken, *_ = speculated(*arrays, from_numpy(tokens), state, *lengths, offset=number).numpy().tolist()
        assert [x.numpy()[0] for x in lengths] == [9 - 2 + taken] * 2
        text = [*tokens[:taken], new]
        first[text[0]] += 1
        if len(text) > 1:
            second[text[1]] += 1
    for counts, chances in ((first, full[0]), (second, full[1])):
        wanted = chances * counts.sum()
        assert ((counts - wanted)**2 / wanted).sum() < 18.5, "chi-square with 4 degrees of freedom, 0.001"
    assert 0.1 < second.sum() / rounds < 0.95


def test_drafts_that_do_not_fit(cpu: None) -> None:
    model = _model()
    other = GPT(GPTConfig(vocab_size=7, context=8, layers=1, heads=1, width=8))
    with pytest.raises(ShapeError, match="the model's vocabulary and backend, got 7 tokens on cpu, for 29 on cpu"):
        SpeculativeDecoding(model, other)
    with pytest.raises(ShapeError, match="ahead must be from 1 to 7, got 8"):
        SpeculativeDecoding(model, _small(), ahead=8)
    with pytest.raises(ShapeError, match=r"repetition_penalty must be 1, got 1\.5"):
        SpeculativeDecoding(model, _small(), SamplingOptions(repetition_penalty=1.5))


# ---- models that change, caches that grow ---------------------------------------------------------------------------

def _little_room(model: TextModel, monkeypatch: pytest.MonkeyPatch) -> TextModel:
    """Caches that begin with room for four tokens."""
    make = model.make_cache

    def made(batch: int = 1, dtype: str | None = None) -> nn.KVCache:
        cache = make(batch, dtype)
        return nn.KVCache(len(cache.layers), batch, 4, cache.width, cache.lengths.backend,
                          "int8" if cache.bytes else cache.dtype, cache.heads)
    monkeypatch.setattr(type(model), "make_cache", lambda self, *rest: made(*rest))
    return model


def test_beams_go_on_when_the_cache_grows(fast_backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The captured reordering is of the cache as it lies now."""
    found = [beam.tokens for beam in BeamSearch(_model(), 4).search([1, 2, 3], 20)]
    model = _little_room(_model(), monkeypatch)
    assert [beam.tokens for beam in BeamSearch(model, 4).search([1, 2, 3], 20)] == found


def test_beams_with_many_stop_tokens(cpu: None) -> None:
    """Enough continuations are left for every beam, as transformers keeps (1 + stop tokens) * beams of them."""
    for seed in range(6):
        stop = set(np.random.default_rng(seed).choice(VOCABULARY, 12, replace=False).tolist())
        found = beam_search(_model(), [1, 2, seed], 8, 4, stop=stop)
        assert all(not stop & set(beam.tokens[:-1]) for beam in found)
        captured, called = (BeamSearch(_model(), 4, way).search([1, 2, seed], 8, stop) for way in (True, False))
        assert captured == called == found
    with pytest.raises(ShapeError, match=r"\[beam_search\] beams must be from 1 to 14 "):
        beam_search(_model(), [1], 3, 15)


@pytest.mark.parametrize("cache", [None, "int8"])
def test_batches_go_on_when_the_cache_grows(fast_backend: str, cache: str | None,
                                            monkeypatch: pytest.MonkeyPatch) -> None:
    prompts = [[1, 2, 3], [4], [5, 6, 7, 8, 9, 10, 11]]
    found = _written(Decoding(_model(), 3, SamplingOptions(0.9), 5, cache), prompts, 40)
    model = _little_room(_model(), monkeypatch)
    np.testing.assert_array_equal(_written(Decoding(model, 3, SamplingOptions(0.9), 5, cache), prompts, 40), found)


def test_weights_that_are_moved_while_a_text_is_written(fast_backend: str) -> None:
    """An optimizer lays them elsewhere; what it changes there shows in the next token."""
    model = _model()
    text = model.stream([1, 2], temperature=0)
    for _ in range(5):
        next(text)
    optim.SGD(model.parameters(), 0.1)
    with dm.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    next(text)  # drawn before
    assert [next(text) for _ in range(3)] == [0, 0, 0]


def test_a_cache_of_former_weights_is_not_used(cpu: None) -> None:
    model = _model()
    decoding = Decoding(model, 1, SamplingOptions(0.0))
    _written(decoding, [[1, 2, 3, 4, 5]], 3)
    with dm.no_grad():
        for parameter in model.parameters():
            parameter.mul_(-0.7)
    again = _written(decoding, [[1, 2, 3, 4, 5]], 8)
    np.testing.assert_array_equal(again, _written(Decoding(model, 1, SamplingOptions(0.0)), [[1, 2, 3, 4, 5]], 8))


def test_every_module_keeps_its_mode(cpu: None) -> None:
    model = _model().train()
    model.h[0].eval()  # type: ignore[attr-defined]
    model.generate([1], 3)
    modes = [module.training for module in (model, model.h[0], model.h[1])]  # type: ignore[attr-defined]
    assert modes == [True, False, True]


def test_drafts_of_small_context(fast_backend: str) -> None:
    """The draft reads no more of the text than leaves room for a round."""
    model = _model()
    draft = GPT(GPTConfig(vocab_size=VOCABULARY, context=8, layers=1, heads=1, width=8))
    source = SpeculativeDecoding(model, draft, SamplingOptions(0.0), ahead=5)
    source.read([1, 2, 3])
    assert _tokens(source, 40) == model.generate([1, 2, 3], 40, temperature=0)
    with pytest.raises(ShapeError, match="draft must have a context of at least ahead"):
        SpeculativeDecoding(model, draft, ahead=7)


@pytest.mark.parametrize("broken", ["draft", "model"])
def test_a_model_that_breaks_is_noticed_with_a_draft(fast_backend: str, broken: str) -> None:
    model, draft = _model(), _model()
    source = SpeculativeDecoding(model, draft, SamplingOptions(1.0), ahead=3)
    source.read([1, 2, 3])
    text = iter(source)
    next(text)
    for name, parameter in (draft if broken == "draft" else model).named_parameters():
        if name.startswith("ln_f"):
            parameter._array.write(np.full(parameter.shape, np.nan, np.float32))
    with pytest.raises(ShapeError, match="logits must be finite"):
        for _ in range(3):
            next(text)
