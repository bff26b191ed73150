"""Drawing tokens: what is filtered agrees with transformers, what is drawn with the probabilities, on every backend."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from dualml import runtime
from dualml.array import Array, from_numpy
from dualml.dtypes import bfloat16, float16, float32, int32, uint32
from dualml.errors import DTypeError, ShapeError
from dualml.models.sampling import SamplingOptions
from dualml.ops import sampling
from dualml.random import Generator
from tests.parity.modes import PRESENT

pytestmark = pytest.mark.xdist_group("transformers")  # one worker imports it
OPTIONS = {
    "plain": SamplingOptions(),
    "cold": SamplingOptions(temperature=0.3),
    "top_k": SamplingOptions(1.4, top_k=5),
    "top_p": SamplingOptions(0.8, top_p=0.7),
    "min_p": SamplingOptions(1.2, min_p=0.1),
    "penalty": SamplingOptions(repetition_penalty=1.7),
    "all": SamplingOptions(0.9, 40, 0.9, 0.02, 1.2),
    "reward": SamplingOptions(0.7, 30, 0.6, repetition_penalty=0.8),
}
SIZES = (1, 7, 64, 5000, 5001)


def settings(options: SamplingOptions) -> Array:
    return from_numpy(options.settings())


def made(rows: int, size: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Logits, many of which are equal, some -infinity; and which tokens were seen."""
    rng = np.random.default_rng(seed)
    logits = (3 * rng.standard_normal((rows, size))).astype(np.float32)
    logits[:, ::4] = np.round(2 * logits[:, ::4]) / 2
    logits[rng.random((rows, size)) < 0.1] = -np.inf
    logits[:, 0] = 1.5
    return logits, (rng.random((rows, size)) < 0.2).astype(np.uint32)


def no_text(rows: int, size: int) -> Array:
    return from_numpy(np.zeros((rows, size), np.uint32), uint32)


def probabilities(logits: np.ndarray, options: SamplingOptions, seen: np.ndarray | None = None) -> np.ndarray:
    text = no_text(*logits.shape) if seen is None else from_numpy(seen, uint32)
    return sampling.probabilities(from_numpy(logits), settings(options), text).numpy()


def drawn(logits: np.ndarray, options: SamplingOptions, seed: int = 0) -> np.ndarray:
    return sampling.sample(from_numpy(logits), settings(options), no_text(*logits.shape), Generator(seed)).numpy()


def transformers() -> tuple[Any, Any]:
    reason = "what filters are compared with"
    torch = pytest.importorskip("torch", reason=reason)
    return pytest.importorskip("transformers.generation.logits_process", reason=reason), torch


def processed(row: np.ndarray, seen: np.ndarray, options: SamplingOptions) -> np.ndarray:
    """What transformers makes of a row's logits, in float64. Of tokens that tie with the last that top_p keeps it drops
    some, as its sort has it; here all of them stay."""
    hf, torch = transformers()
    tokens = torch.tensor(np.flatnonzero(seen)[None])
    x = torch.tensor(row[None].astype(np.float64))
    if seen.any():
        x = hf.RepetitionPenaltyLogitsProcessor(options.repetition_penalty)(tokens, x)
    x = hf.TemperatureLogitsWarper(options.temperature)(tokens, x)
    if options.top_k:
        x = hf.TopKLogitsWarper(options.top_k)(tokens, x)
    if options.top_p:
        kept = hf.TopPLogitsWarper(options.top_p)(tokens, x)
        x = x.masked_fill(x < kept[kept > -torch.inf].min(), -torch.inf)
    if options.min_p:
        x = hf.MinPLogitsWarper(options.min_p)(tokens, x)
    return x[0].softmax(0).numpy()


@pytest.mark.parametrize("size", SIZES)
def test_probabilities_are_those_of_transformers(backend: str, size: int) -> None:
    for name, options in OPTIONS.items():
        logits, seen = made(2, size, size)
        wanted = np.array([processed(*pair, options) for pair in zip(logits, seen, strict=True)])
        found = probabilities(logits, options, seen)
        assert np.array_equal(found > 0, wanted > 0) or name in ("plain", "cold", "penalty"), name
        np.testing.assert_allclose(found, wanted, 2e-5, 1e-7, err_msg=name)


def test_top_p_without_ties_is_that_of_transformers(backend: str) -> None:
    hf, torch = transformers()
    logits = np.random.default_rng(3).standard_normal((4, 64)).astype(np.float32)
    for p in (0.001, 0.3, 0.5, 0.97, 0.9999):
        wanted = hf.TopPLogitsWarper(p)(None, torch.tensor(logits)).numpy() > -np.inf
        assert np.array_equal(probabilities(logits, SamplingOptions(top_p=p)) > 0, wanted), p
    halves = np.log(np.array([[0.125, 0.5, 0.25, 0.125]], np.float32))
    assert np.allclose(probabilities(halves, SamplingOptions(top_p=0.5)), [[0, 1, 0, 0]])
    assert np.allclose(probabilities(halves, SamplingOptions(top_p=0.51)), [[0, 2 / 3, 1 / 3, 0]])


def test_top_k_keeps_ties_and_finds_any_place(backend: str) -> None:
    logits = np.array([[2, -0.0, 2, 0.0, -1, 0.0, -np.inf, -3]], np.float32)
    kept = [int((probabilities(logits, SamplingOptions(top_k=k)) > 0).sum()) for k in range(1, 9)]
    assert kept == [2, 2, 5, 5, 5, 6, 7, 7]
    row = np.random.default_rng(0).permutation(5000).astype(np.float32)[None] * 1e-3 - 2
    for k in (1, 2, 999, 4999, 5000):
        assert (probabilities(row, SamplingOptions(top_k=k)) > 0).sum() == k


@pytest.mark.parametrize("dtype", [float16, bfloat16], ids=str)
def test_16_bits(backend: str, dtype: object) -> None:
    if dtype not in runtime.current().dtypes:
        return
    logits, seen = made(3, 64)
    narrow = from_numpy(logits, dtype)
    text, options = from_numpy(seen, uint32), settings(OPTIONS["all"])
    found = sampling.probabilities(narrow, options, text)
    assert found.dtype is float32
    wide = sampling.probabilities(from_numpy(narrow.numpy().astype(np.float32)), options, text)
    np.testing.assert_allclose(found.numpy(), wide.numpy(), 1e-6)
    tokens = sampling.sample(narrow, options, text, Generator(1)).numpy()
    assert (found.numpy()[np.arange(3), tokens] > 0).all()


@pytest.mark.parametrize("name", ["plain", "top_p", "all"])
def test_frequencies(fast_backend: str, name: str) -> None:
    """Pearson's chi-square over 4096 draws of a row, all in one launch; a right sampler is within 5 sigma."""
    rows, size = 4096, 33
    one = made(1, size, 5)[0] / 3
    chances = probabilities(one, OPTIONS[name])[0].astype(np.float64)
    counts = np.bincount(drawn(np.repeat(one, rows, axis=0), OPTIONS[name], 7), minlength=size)
    assert counts[chances == 0].sum() == 0
    expected = rows * chances
    rare = (expected < 5) & (chances > 0)
    pairs = [(counts[i], expected[i]) for i in np.flatnonzero(~rare & (chances > 0))]
    pairs += [(counts[rare].sum(), expected[rare].sum())] if rare.any() else []
    freedom = len(pairs) - 1
    square = sum((n - e) ** 2 / e for n, e in pairs)
    assert freedom > 3
    assert square < freedom + 5 * np.sqrt(2 * freedom), f"chi-square {square:.1f} with {freedom} degrees of freedom"


@pytest.mark.parametrize("size", SIZES)
def test_the_same_seed_draws_the_same_tokens_everywhere(size: int) -> None:
    logits = made(9, size, 2)[0]
    found = {}
    for name in PRESENT:
        with runtime.use_backend(name):
            found[name] = [drawn(logits, options, 11).tolist() for options in OPTIONS.values()]
    assert all(tokens == found["cpu"] for tokens in found.values())
    with runtime.use_backend("cpu"):
        again = [drawn(logits, options, 12).tolist() for options in OPTIONS.values()]
    assert again != found["cpu"] or size == 1


def test_rows_and_calls_draw_numbers_of_their_own(backend: str) -> None:
    generator, flat = Generator(5), from_numpy(np.zeros((16, 5001), np.float32))
    text, plain = no_text(16, 5001), settings(SamplingOptions())
    tokens = [sampling.sample(flat, plain, text, generator).numpy() for _ in range(3)]
    assert len(set(np.concatenate(tokens).tolist())) > 44  # of 48; two alike have a chance of 1/5 in all
    assert generator.position == 12


def test_greedy_takes_the_first_of_the_likeliest(backend: str) -> None:
    logits = made(4, 5000)[0]
    logits[:, [70, 4000]] = 99
    greedy = SamplingOptions(temperature=0, top_k=3, top_p=0.1, min_p=0.5)
    assert drawn(logits, greedy).tolist() == [70] * 4
    assert np.array_equal(probabilities(logits, greedy), np.eye(5000)[[70] * 4])
    seen = np.zeros((4, 5000), np.uint32)
    seen[:, 70] = 1
    penalized = SamplingOptions(temperature=0, repetition_penalty=1.1)
    assert np.array_equal(probabilities(logits, penalized, seen), np.eye(5000)[[4000] * 4])
    assert drawn(np.array([[-0.0, 0.0]], np.float32), greedy).tolist() == [0]
    assert drawn(np.array([[-np.inf, -3e38]], np.float32), greedy).tolist() == [1]


def test_nearly_cold_is_greedy(backend: str) -> None:
    logits = np.array([[1, 3, 3.0001, -np.inf, 2]], np.float32)
    for temperature in (1e-6, 1e-30, 1e-38, 1e-44):
        assert drawn(logits, SamplingOptions(temperature)).tolist() == [2]


def test_unusable_rows(backend: str) -> None:
    logits = np.random.default_rng(0).standard_normal((6, 64)).astype(np.float32)
    logits[0, 3], logits[1, 40], logits[2], logits[4, :63] = np.nan, np.inf, -np.inf, -np.inf
    logits.view(np.uint32)[3, 7] = 0xFFC00000  # a NaN with a sign
    for options in (SamplingOptions(), OPTIONS["all"], SamplingOptions(0)):
        text = no_text(6, 64)
        tokens = sampling.sample(from_numpy(logits), settings(options), text, Generator(1)).numpy()
        assert tokens[:5].tolist() == [-1, -1, -1, -1, 63]
        assert tokens[5] >= 0
        assert text.numpy().sum(1).tolist() == [0, 0, 0, 0, 1, 1]
        chances = probabilities(logits, options)
        assert np.isnan(chances[:4]).all()
        assert np.allclose(chances[4:].sum(1), 1)


def test_drawn_tokens_are_seen(backend: str) -> None:
    logits, before = made(5, 64)
    text = from_numpy(before, uint32)
    tokens = sampling.sample(from_numpy(logits), settings(OPTIONS["penalty"]), text, Generator(3)).numpy()
    before[np.arange(5), tokens] = 1
    assert np.array_equal(text.numpy(), before)


def test_mark(backend: str) -> None:
    text = no_text(3, 100)
    prompt = np.array([[1, 5, 5, 99], [-1, 100, 2**31 - 1, -(2**31)], [0, 7, -1, -1]], np.int32)
    sampling.mark(from_numpy(prompt, int32), text)
    sampling.mark(from_numpy(prompt[:, :0], int32), text)
    assert [np.flatnonzero(row).tolist() for row in text.numpy()] == [[1, 5, 99], [], [0, 7]]


def test_what_is_refused(backend: str) -> None:
    logits, text = from_numpy(np.zeros((2, 5), np.float32)), no_text(2, 5)
    plain, generator = settings(SamplingOptions()), Generator(0)
    with pytest.raises(ShapeError, match=r"\[sample\] logits must be \[B,V\] with at least one token, got shape .5,"):
        sampling.sample(logits.slot(0, (5,)), plain, text, generator)
    with pytest.raises(ShapeError, match=r"\[probabilities\] logits must be .* at least one token, got shape \(2, 0\)"):
        sampling.probabilities(from_numpy(np.zeros((2, 0), np.float32)), plain, no_text(2, 0))
    with pytest.raises(ShapeError, match=r"seen must be \[B,V\] with V=5 \(from logits\), got shape \(2, 4\)"):
        sampling.sample(logits, plain, no_text(2, 4), generator)
    with pytest.raises(DTypeError, match=r"logits must be floating, got int32"):
        sampling.sample(from_numpy(np.zeros((2, 5), np.int32)), plain, text, generator)
    none = from_numpy(np.zeros((0, 5), np.float32))
    assert sampling.sample(none, plain, no_text(0, 5), generator).shape == (0,)


@pytest.mark.parametrize(("options", "message"), [
    ({"temperature": -1}, "temperature must be 0 or more, got -1"),
    ({"temperature": float("nan")}, "temperature must be 0 or more, got nan"),
    ({"top_k": 0}, "top_k must be at least 1, got 0"),
    ({"top_k": 2.5}, "top_k must be a whole number, got 2.5"),
    ({"top_k": True}, "top_k must be a whole number, got True"),
    ({"top_p": "0.9"}, "top_p must be a number, got '0.9'"),
    ({"temperature": None}, "temperature must be a number, got None"),
    ({"top_p": 0.0}, "top_p must be above 0 and at most 1, got 0.0"),
    ({"top_p": 1.5}, "top_p must be above 0 and at most 1, got 1.5"),
    ({"min_p": -0.1}, "min_p must be from 0 to 1, got -0.1"),
    ({"repetition_penalty": 0.0}, "repetition_penalty must be above 0, got 0.0"),
])
def test_options_are_checked(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ShapeError, match=rf"\[sample\] {message}"):
        SamplingOptions(**options)


def test_options_as_settings() -> None:
    found = SamplingOptions(0.5, 3, 0.9, 0.1, 1.1).settings()
    assert found.dtype == np.float32
    assert np.allclose(found, [0.5, 3, 0.9, 0.1, 1.1])
    assert SamplingOptions().settings().tolist() == [1, 0, 1, 0, 1]
    assert SamplingOptions(np.float32(0.5), np.int64(3)).settings().tolist() == [0.5, 3, 1, 0, 1]
